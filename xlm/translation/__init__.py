"""Translate text with an encoder-decoder model, and measure the quality of translations."""
