"""Raw text to token ids and back, without torch.

``pipeline.py`` specifies how a text becomes ids. ``tokenizer.py`` holds ``XLMTokenizer``. ``fast/`` computes what
``pipeline.py`` specifies, faster.
"""
