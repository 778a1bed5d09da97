"""Texts to log-probabilities."""
