"""Random models for benchmarks, and loading one with this library and a peer."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import CPU, DeviceSetup
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.convert import convert
from xlm.checkpoint.original_writer import write_original
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.parity.peer import load_peer
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS

SIZES = {
    "published": XLMConfig.clm_ende_1024(),
    "small": XLMConfig.clm_ende_1024(vocab_size=2000, emb_dim=64, n_layers=2),
}
"""The published size, which the targets apply to, and a small one for trying a benchmark."""

_POSITION_SCALE, _LANGUAGE_SCALE = 8.0, 2.0
"""Factors for the position and language embeddings of a random model.

Without them, the next token always equals the current one, because its embedding is also its row of the head, and any
two models generate the same text. With them, 38 of 64 new tokens are distinct, and another language gives other tokens.
Earlier context still changes the logits by only one percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPair:
    """The models of two libraries with the same weights.

    Attributes:
        ours: The model of this library.
        theirs: The peer's, causal, with the same type and device; ``None`` without a peer.
    """

    ours: XLMWithLMHeadModel
    theirs: Any

    def in_float32(self) -> ModelPair:
        """Return copies that compute in float32, with the same rounded weights."""
        return ModelPair(
            ours=copy.deepcopy(self.ours).float(),
            theirs=None if self.theirs is None else copy.deepcopy(self.theirs).float(),
        )


@torch.no_grad()
def scale_embeddings(model: XLMWithLMHeadModel) -> None:
    """Enlarge the position and language embeddings of a random model, so that it does not repeat its last token."""
    embeddings = model.transformer.embeddings
    embeddings.position.weight.mul_(_POSITION_SCALE)
    if embeddings.language is not None:
        embeddings.language.weight.mul_(_LANGUAGE_SCALE)


def write_random_original(path: Path, config: XLMConfig) -> None:
    """Write a checkpoint of the original with random weights and made-up words.

    Args:
        path: The ``.pth`` file.
        config: The model's configuration.
    """
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(config)
    scale_embeddings(model)
    words = (*SPECIAL_TOKENS, *(f"word{index}" for index in range(config.vocab_size - len(SPECIAL_TOKENS))))
    checkpoint = Checkpoint(source=path, config=config, tensors=model.state_dict())
    write_original(path, checkpoint, words)


def write_random_model(scratch: Path, config: XLMConfig) -> Path:
    """Write a model directory with random weights and no tokenizer, and return its path.

    Args:
        scratch: Parent of the directory; temporarily needs twice the size of the weights.
        config: The model's configuration.
    """
    source, directory = scratch / "random.pth", scratch / "model"
    write_random_original(source, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing BPE codes, which these benchmarks do not need
        convert(source, directory)
    source.unlink()
    return directory


def load_pair(directory: Path, against: str | None, setup: DeviceSetup = CPU) -> ModelPair:
    """Load a model directory with this library and, unless ``against`` is ``None``, with the peer.

    Raises:
        DependencyError: The peer is not installed.
    """
    dtype, device = setup.dtype, setup.device
    return ModelPair(
        ours=XLMWithLMHeadModel.from_pretrained(directory, dtype=dtype, device=device),
        theirs=None if against is None else load_peer(directory, dtype=dtype, device=device)[0],
    )
