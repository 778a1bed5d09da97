"""A random model of a given size, and the same model as a peer library runs it."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xlm.bench.checkpoints import SIZES, write_random_original
from xlm.bench.place import CPU, Place
from xlm.checkpoint.convert import convert
from xlm.checkpoint.load import load_model
from xlm.errors import DependencyError
from xlm.model.lm import XLMWithLMHeadModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two libraries' models with the same weights.

    Attributes:
        ours: Ours.
        theirs: The peer's, causal, in the same type on the same device; ``None`` when there is no peer.
    """

    ours: XLMWithLMHeadModel
    theirs: Any

    def in_float32(self) -> Pair:
        """Copies that compute in float32 with the same weights, rounded as these are."""
        return Pair(
            ours=copy.deepcopy(self.ours).float(),
            theirs=None if self.theirs is None else copy.deepcopy(self.theirs).float(),
        )


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


def load_pair(directory: Path, against: str | None, place: Place = CPU) -> Pair:
    """Loads a directory with this library and with a peer, in a place's type.

    Raises:
        DependencyError: The peer is not installed.
    """
    dtype, device = place.loaded_type, place.device
    return Pair(
        ours=load_model(directory, dtype=dtype, device=device),
        theirs=None if against is None else load_peer(directory, dtype=dtype, device=device),
    )


def load_peer(directory: Path, *, dtype: str = "float32", device: torch.device = CPU.device) -> Any:
    """``transformers``' model of a directory, causal and in evaluation mode.

    Args:
        directory: In its layout.
        dtype: Name of the type of the weights.
        device: Where they go.

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
    model = transformers.XLMWithLMHeadModel.from_pretrained(directory, causal=True, dtype=getattr(torch, dtype))
    return model.eval().to(device)
