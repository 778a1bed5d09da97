"""The page of ``xlm explore``: a model's surprisals and continuations in the browser."""
