"""Corpora on a cluster, with Ray Data: callable classes for pipelines, and the commands' ``--engine ray``.

Only functions import Ray, so the package can be imported without the extra ``xlm[ray]``.
"""

from __future__ import annotations

from xlm.distributed.steps import Generator, Scorer, Tokenizer

__all__ = ["Generator", "Scorer", "Tokenizer"]
