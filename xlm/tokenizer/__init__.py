"""Raw text to token ids and back, without torch.

To see how a text becomes ids, read ``pipeline.py``, the specification; ``tokenizer.py`` holds ``XLMTokenizer``.
``fast/`` computes the same as ``pipeline.py``, faster.
"""
