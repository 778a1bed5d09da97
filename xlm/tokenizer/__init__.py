"""Raw text to token ids and back. Never imports torch.

``pipeline.py`` defines how a text becomes ids; ``tokenizer.py`` holds ``XLMTokenizer``; ``fast/`` is the same as
``pipeline.py``, faster.
"""
