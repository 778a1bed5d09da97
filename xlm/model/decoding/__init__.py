"""Decoding: greedy, by sampling, or by beam search, one token per step with a cache."""
