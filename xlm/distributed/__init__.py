"""Corpora beyond one machine, with Ray Data: callable classes for pipelines, and the commands' ``--engine ray``.

Nothing here imports Ray before it is used, so that this can be imported without the extra ``xlm[ray]``.
"""

from xlm.distributed.generator import Generator
from xlm.distributed.scorer import Scorer
from xlm.distributed.tokenizer import Tokenizer

__all__ = ["Generator", "Scorer", "Tokenizer"]
