"""Continuing prompts: greedily, by sampling, by beam search; one token at a time with a cache."""
