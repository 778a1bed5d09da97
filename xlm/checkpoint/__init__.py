"""Read, write and convert checkpoints of the original XLM code and of ``transformers``."""
