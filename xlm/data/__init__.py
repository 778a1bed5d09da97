"""Text to training batches: learn BPE, write token ids to disk, read them back in batches."""
