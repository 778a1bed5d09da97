"""The network: configuration, attention, cache, transformer, heads and decoding. Uses no library but torch."""
