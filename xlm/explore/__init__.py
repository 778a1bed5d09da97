"""The page of ``xlm explore``: surprisals and continuations of a model in the browser."""
