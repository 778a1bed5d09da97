"""Deprecated module of ``SentenceScore`` and ``WordScore``, which are now in ``xlm.scoring.scorer``."""

from __future__ import annotations

import warnings
from typing import Any

from xlm.scoring import scorer

_MOVED = ("SentenceScore", "WordScore")


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now xlm.scoring.scorer.{name}", DeprecationWarning, stacklevel=2)
    return getattr(scorer, name)
