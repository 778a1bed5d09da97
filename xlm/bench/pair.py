"""A random model of a given size, and the same model as a peer library runs it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xlm.bench.checkpoints import SIZES, write_random_original
from xlm.checkpoint.convert import convert
from xlm.checkpoint.load import load_model
from xlm.errors import DependencyError
from xlm.model.lm import XLMWithLMHeadModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two libraries' models with the same weights.

    Attributes:
        ours: Ours, in float32.
        theirs: The peer's, causal, in float32; ``None`` when there is no peer.
    """

    ours: XLMWithLMHeadModel
    theirs: Any


def write_random_directory(scratch: Path, size: str, *, vocab_size: int | None = None) -> Path:
    """Writes a directory in the ``transformers`` layout with random weights, without a tokenizer, and returns it.

    Args:
        scratch: Where to.
        size: One of ``SIZES``.
        vocab_size: Words V, when not that size's.
    """
    source, directory = scratch / "random.pth", scratch / "model"
    config = SIZES[size] if vocab_size is None else replace(SIZES[size], vocab_size=vocab_size)
    write_random_original(source, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no codes, which nobody here needs
        convert(source, directory)
    source.unlink()
    return directory


def load_pair(directory: Path, against: str | None) -> Pair:
    """Loads a directory with this library and with a peer.

    Raises:
        DependencyError: The peer is not installed.
    """
    return Pair(ours=load_model(directory), theirs=None if against is None else load_peer(directory))


def load_peer(directory: Path) -> Any:
    """``transformers``' model of a directory, causal, in float32 and evaluation mode.

    Raises:
        DependencyError: ``transformers`` is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError(
            "transformers is not installed",
            where="xlm bench --against transformers",
            remedy="pip install 'xlm[transformers]'",
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.XLMWithLMHeadModel.from_pretrained(directory, causal=True, dtype=torch.float32)
    return model.eval()
