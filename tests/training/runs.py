"""Shared by the tests of training runs: a small prepared text, and a configuration that runs in under a second."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm.data.prepare import prepare
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.config import (
    BatchSettings,
    CoefficientSettings,
    EvaluationSettings,
    ModelSettings,
    NoiseSettings,
    OptimiserSettings,
    RunSettings,
    TrainConfig,
)
from xlm.training.log import Event, read_log
from xlm.training.loop import train


def small_tokenizer() -> XLMTokenizer:
    return XLMTokenizer(VOCABULARY, MERGES, preset="original", lang2id={"de": 0, "en": 1})


def prepare_text(directory: Path) -> Path:
    """Prepare the small text as German and English, for training and validation, and return the data directory."""
    words = TEXT.split()
    for name, first in (("de", 0), ("en", 7)):
        lines = [" ".join(words[i : i + 6]) for i in range(first, len(words) - 6)] * 3
        (directory / name).write_text("\n".join(lines) + "\n", "utf-8")
    texts = {language: directory / language for language in ("de", "en")}
    prepare(small_tokenizer(), {"train": texts, "valid": texts}, directory / "data")
    return directory / "data"


TRANSLATION = ("ae:de", "ae:en", "bt:de-en-de", "bt:en-de-en", "mt:de-en", "mt:en-de")


def prepare_pairs(directory: Path) -> Path:
    """Prepare monolingual text with an empty line, and pairs, for training and validation; pairs for test, too."""
    words = TEXT.split()
    for name, first in (("de", 0), ("en", 7)):
        lines = [" ".join(words[i : i + 1 + i % 6]) for i in range(first, len(words) - 6)]
        (directory / name).write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n", "utf-8")
        (directory / f"pairs.{name}").write_text("\n".join(lines[:12]) + "\n", "utf-8")
    mono = {language: directory / language for language in ("de", "en")}
    pairs = {f"de-en.{language}": directory / f"pairs.{language}" for language in ("de", "en")}
    texts = {"train": mono | pairs, "valid": mono | pairs, "test": pairs}
    prepare(small_tokenizer(), texts, directory / "data")
    return directory / "data"


def translation_run(
    data: Path, output: Path, *, objectives: tuple[str, ...] = TRANSLATION, **changes: Any
) -> TrainConfig:
    """Return a configuration of 12 updates of a small translation model without dropout.

    Args:
        data: Directory from ``prepare_pairs``.
        output: Directory of the run.
        objectives: What it trains.
        **changes: Keys of the other tables, ``evaluation_size``, or the tables ``coefficients``, ``evaluation``,
            ``model`` and ``noise``.
    """
    tables: dict[str, Any] = {
        "model": without_dropout(max_position_embeddings=40),
        "evaluation": EvaluationSettings(batch_size=changes.pop("evaluation_size", 5), bleu="tokenized"),
        "coefficients": CoefficientSettings(),
        "noise": NoiseSettings(),
    }
    tables |= {name: changes.pop(name) for name in tables if name in changes}
    config = small_run(data, output, **{"batch_size": 6, "max_length": 30, **changes})
    return dataclasses.replace(config, objectives=objectives, **tables)


def small_run(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a configuration of 12 updates of a one-layer model with dropout; ``changes`` sets keys of any table."""
    parts: dict[str, Any] = {
        "model": ModelSettings(emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=16),
        "batch": BatchSettings(batch_size=4, seq_len=8),
        "optimiser": OptimiserSettings(lr=5e-3, warmup_steps=4),
        "run": RunSettings(max_steps=12, device="cpu", log_every=1, evaluate_every=6, save_every=3, keep_last=3),
    }
    top = {name: value for name, value in changes.items() if name in ("seed", "model")}
    for name, part in parts.items():
        names = {f.name for f in dataclasses.fields(part)} & set(changes)
        parts[name] = dataclasses.replace(part, **{key: changes[key] for key in names})
    return TrainConfig(data=str(data), output=str(output), **{**parts, **top})


def without_dropout(max_position_embeddings: int = 16) -> ModelSettings:
    """Return the model of ``small_run`` without dropout, which would differ between processes."""
    return ModelSettings(
        emb_dim=16,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=max_position_embeddings,
        dropout=0.0,
        attention_dropout=0.0,
    )


def start_from(start: Path | str, **changes: Any) -> ModelSettings:
    """Return the settings of a model to train further, without dropout."""
    return ModelSettings(start_from=str(start), **{"dropout": 0.0, "attention_dropout": 0.0, **changes})


def train_translator(data: Path, output: Path) -> Path:
    """Train a model whose translations differ in length, and return its directory."""
    objectives = ("mt:de-en", "mt:en-de", "ae:de", "ae:en")
    settings = {"max_steps": 200, "batch_size": 24, "lr": 2e-2, "warmup_steps": 20, "evaluate_every": 0}
    train(translation_run(data, output, objectives=objectives, **settings, save_every=0, log_every=200))
    return output / "last"


def write_config(path: Path, data: Path, output: Path, **run: int) -> Path:
    """Write the configuration of ``small_run`` to a file, with other keys of ``run``."""
    lines = [f"data = {json.dumps(str(data))}", f"output = {json.dumps(str(output))}"]
    lines += ["[model]", "emb_dim = 16", "n_layers = 1", "n_heads = 2", "max_position_embeddings = 16"]
    lines += [
        "[batch]",
        "batch_size = 4",
        "seq_len = 8",
        "[optimiser]",
        "lr = 5e-3",
        "warmup_steps = 4",
        "[run]",
        'device = "cpu"',
    ]
    lines += [f"{key} = {value}" for key, value in run.items()]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def weights(run: Path, name: str = "last") -> dict[str, Tensor]:
    return dict(XLMWithLMHeadModel.from_pretrained(run / name).state_dict())


def translation_weights(run: Path, name: str = "last") -> dict[str, Tensor]:
    return dict(XLMEncoderDecoderModel.from_pretrained(run / name).state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all weights are bit-identical."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def updates(run: Path) -> list[tuple[int, float, float]]:
    """Return number, loss and gradient norm of each update in the log of a run."""
    return [(event["updates"], event["loss"], event["grad_norm"]) for event in events(run, "update")]


def events(run: Path, kind: str) -> list[Event]:
    return [event for event in read_log(run) if event["event"] == kind]


class _Cut(BaseException):
    """Exception that no code in a run catches."""


def _cut_at(number: int) -> Callable[[Event], None]:
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            raise _Cut

    return observe


def train_with_cuts(config: TrainConfig, cuts: Iterable[int]) -> None:
    """Cut the run off at its event with each of these numbers and resume it each time, then complete it."""
    for cut in cuts:
        try:
            train(config, resume=True, observers=[_cut_at(cut)])
        except _Cut:
            continue
    train(config, resume=True)
