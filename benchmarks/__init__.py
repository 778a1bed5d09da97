"""Measurements of this library beside `transformers` and the machine's limits; run ``python -m benchmarks``."""
