"""The web page of ``xlm explore``, which shows surprisals and continuations of a model in the browser."""
