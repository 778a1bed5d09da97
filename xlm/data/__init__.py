"""Text to batches: byte-pair codes, shards of ids on disk, the stream layout, the order of the batches."""
