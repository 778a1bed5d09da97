"""A small model of the demo's vocabulary, for tests of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer

POSITIONS = 24


def open_tokenizer(files: Path, **settings: Any) -> XLMTokenizer:
    """The demo's tokenizer, from its codes and vocabulary."""
    values: dict[str, Any] = {
        "lang2id": {"de": 0, "en": 1},
        "bos_token": "</s>",
        "do_lowercase_and_remove_accent": False,
    }
    return XLMTokenizer.from_codes(files / "codes", files / "vocab", **(values | settings))


def make_model(vocab_size: int, **changes: Any) -> XLMWithLMHeadModel:
    """2 layers of width 16 with 24 positions, German and English, random weights."""
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "emb_dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": POSITIONS,
        "n_langs": 2,
        "lang2id": {"de": 0, "en": 1},
        "dropout": 0.5,
    }
    return XLMWithLMHeadModel(XLMConfig(**{**values, **changes})).eval()
