"""Corpora beyond one machine, with Ray Data: callable classes for pipelines, and the commands' ``--engine ray``.

Nothing here imports Ray before it is used, so that this can be imported without the extra ``xlm[ray]``. The classes are
imported on first use: who only reads files for the others never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.distributed.generator import Generator
    from xlm.distributed.scorer import Scorer
    from xlm.distributed.tokenizer import Tokenizer

__all__ = ["Generator", "Scorer", "Tokenizer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"xlm.distributed.{name.lower()}"), name)
