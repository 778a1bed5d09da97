"""The tokenizer's speed: the same pieces and ids as ``xlm.tokenizer.pipeline``, from caches and arrays.

``pipeline.py`` here takes the texts, ``segmenter.py`` one text at a time with a cache of its chunks, ``bpe.py`` one
word, and the ``batch_*`` files many texts or words at once in numpy. Nothing here decides anything: the tests compare
every result with the specification's.
"""
