"""The fast path of the tokenizer: the same pieces and ids as ``xlm.tokenizer.pipeline``, from caches and arrays.

``pipeline.py`` calls the other files. ``segmenter.py`` divides one text, and ``bpe.py`` splits one word. The
``batch_*`` files do the same for many texts or words at once in numpy, and ``chunk_index.py`` finds the text between
spaces for them. The tests compare every result with that of ``xlm.tokenizer.pipeline``.
"""
