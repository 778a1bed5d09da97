"""Words to readable text: what Moses' detokenizer does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def detokenized(words: Sequence[str], language: str) -> str:
    """Returns words joined as one writes them: punctuation beside its word, quotes around theirs.

    Source: Moses, scripts/tokenizer/detokenizer.perl, through sacremoses.
    """
    text: str = _detokenizer(language).detokenize(list(words), unescape=False)
    return text


@lru_cache(maxsize=32)
def _detokenizer(language: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang=language)
