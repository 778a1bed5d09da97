"""Shared by the tests of the model: small random models, random ids, and a measure of error."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

_T = TypeVar("_T")


def requested(value: _T | None) -> _T:
    """Return a part of an output that the caller asked for, so that it is not ``None``."""
    assert value is not None
    return value


def small_config(**changes: Any) -> XLMConfig:
    """Return a configuration: 61 words, 2 layers of width 24 with 3 heads, 16 positions, German and English."""
    values: dict[str, Any] = {
        "vocab_size": 61,
        "emb_dim": 24,
        "n_layers": 2,
        "n_heads": 3,
        "max_position_embeddings": 16,
        "n_langs": 2,
        "lang2id": {"de": 0, "en": 1},
    }
    values.update(changes)
    if values["n_langs"] != 2 and "lang2id" not in changes:
        values["lang2id"] = {}
    return XLMConfig(**values)


def small_model(*, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> XLMWithLMHeadModel:
    """Return a model in evaluation mode; no weight keeps an initial value of 0 or 1, which could hide a mistake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMWithLMHeadModel(small_config(**changes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model.to(dtype).eval()


def random_ids(rows: int, tokens: int, *, seed: int = 0, low: int = 14, high: int = 61) -> Tensor:
    """Return (rows, tokens) int64 ids from ``low`` to ``high - 1``; without ``<pad>`` if ``low`` > 2."""
    return torch.randint(low, high, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value; infinite if there is NaN or infinity."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    error = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    return error if error == error else float("inf")
