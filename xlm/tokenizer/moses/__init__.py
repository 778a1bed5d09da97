"""Moses' tokenizer: raw text to words and back, by the rules of Moses' Perl scripts or of sacremoses."""
