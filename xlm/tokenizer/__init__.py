"""Raw text to token ids and back: Moses normalisation, byte-pair encoding, the vocabulary. Never imports torch."""
