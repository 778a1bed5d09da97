"""Decoding: prompts are continued greedily, by sampling or by beam search, one token at a time with a cache."""
