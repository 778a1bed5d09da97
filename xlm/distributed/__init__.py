"""Corpora on a cluster, with Ray Data: callable classes for pipelines, and the commands' ``--engine ray``.

Only functions import Ray, so the package can be imported without the extra ``xlm[ray]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.distributed.steps import Generator, Scorer, Tokenizer

__all__ = ["Generator", "Scorer", "Tokenizer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xlm.distributed import steps

    return getattr(steps, name)
