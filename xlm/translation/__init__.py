"""Text to text with an encoder-decoder model, and its quality."""
