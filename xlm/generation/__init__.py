"""Generation of text from prompts."""
