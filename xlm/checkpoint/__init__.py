"""Reading, writing and conversion of checkpoints of the original and of ``transformers``."""
