"""XLM causal language models in PyTorch, with the results of the original.

Each public name is imported on first use, so that ``import xlm`` stays light and the tokenizer works without importing
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xlm._version import __version__
from xlm.errors import XLMError, XLMWarning

if TYPE_CHECKING:
    from xlm.checkpoint.convert import convert
    from xlm.evaluation.evaluate import evaluate
    from xlm.model.cache import XLMCache
    from xlm.model.config import XLMConfig
    from xlm.model.decoding.options import DecodingOptions
    from xlm.model.decoding.result import Continuation
    from xlm.model.decoding.streaming import TokenStream
    from xlm.model.linear_cross_entropy import linear_cross_entropy
    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.model.network import XLMModel
    from xlm.model.outputs import XLMModelOutput, XLMOutput
    from xlm.model.seq2seq import XLMEncoderDecoderModel, XLMEncoderDecoderOutput
    from xlm.scoring.figure import plot
    from xlm.scoring.frames import score_frame
    from xlm.scoring.perplexity import perplexity
    from xlm.scoring.score import score, score_documents, score_stream
    from xlm.scoring.vectors import word_vectors, word_vectors_stream
    from xlm.tokenizer.collator import DataCollatorForLanguageModeling
    from xlm.tokenizer.tokenizer import XLMTokenizer
    from xlm.translation.translator import translate, translate_stream

_LAZY = {
    "Continuation": "xlm.model.decoding.result",
    "DataCollatorForLanguageModeling": "xlm.tokenizer.collator",
    "DecodingOptions": "xlm.model.decoding.options",
    "TokenStream": "xlm.model.decoding.streaming",
    "XLMCache": "xlm.model.cache",
    "XLMConfig": "xlm.model.config",
    "XLMEncoderDecoderModel": "xlm.model.seq2seq",
    "XLMEncoderDecoderOutput": "xlm.model.seq2seq",
    "XLMModel": "xlm.model.network",
    "XLMModelOutput": "xlm.model.outputs",
    "XLMOutput": "xlm.model.outputs",
    "XLMTokenizer": "xlm.tokenizer.tokenizer",
    "XLMWithLMHeadModel": "xlm.model.lm",
    "convert": "xlm.checkpoint.convert",
    "evaluate": "xlm.evaluation.evaluate",
    "linear_cross_entropy": "xlm.model.linear_cross_entropy",
    "perplexity": "xlm.scoring.perplexity",
    "plot": "xlm.scoring.figure",
    "score": "xlm.scoring.score",
    "score_documents": "xlm.scoring.score",
    "score_frame": "xlm.scoring.frames",
    "score_stream": "xlm.scoring.score",
    "translate": "xlm.translation.translator",
    "translate_stream": "xlm.translation.translator",
    "word_vectors": "xlm.scoring.vectors",
    "word_vectors_stream": "xlm.scoring.vectors",
}

__all__ = [
    "Continuation",
    "DataCollatorForLanguageModeling",
    "DecodingOptions",
    "TokenStream",
    "XLMCache",
    "XLMConfig",
    "XLMEncoderDecoderModel",
    "XLMEncoderDecoderOutput",
    "XLMError",
    "XLMModel",
    "XLMModelOutput",
    "XLMOutput",
    "XLMTokenizer",
    "XLMWarning",
    "XLMWithLMHeadModel",
    "__version__",
    "convert",
    "evaluate",
    "linear_cross_entropy",
    "perplexity",
    "plot",
    "score",
    "score_documents",
    "score_frame",
    "score_stream",
    "translate",
    "translate_stream",
    "word_vectors",
    "word_vectors_stream",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
