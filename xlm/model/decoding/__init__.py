"""Decoding: greedy, by sampling, or by beam search, one token per step with a cache.

``sampling.py`` holds the loop for greedy decoding and sampling, and says how to add a strategy;
``logits_processors.py`` says how to add a processor. ``options.py`` holds the options, and ``beam_search.py``
the loop of beam search. Both loops use a model only through ``state.py``.
"""
