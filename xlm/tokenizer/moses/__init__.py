"""Moses: raw text to words and back, by the rules of its Perl scripts or those of sacremoses."""
