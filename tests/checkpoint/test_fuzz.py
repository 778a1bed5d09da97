"""A short run of the fuzzer. Oracle: the weights of the file that the mutants are made of; an error of this library."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_checkpoints
import pytest
import torch

from tests.checkpoint.mutants import GENERATORS, OPENS, Base
from xlm import XLMWithLMHeadModel


def test_each_generator_once_and_some_more() -> None:
    counts, wrong, slowest = fuzz_checkpoints.run(seed=14, first=0, files=len(GENERATORS) + 60, minutes=10)
    assert wrong == []
    assert set(counts) == {generator.name for generator in GENERATORS}
    assert sum(result.total() for result in counts.values()) == len(GENERATORS) + 60
    assert slowest < fuzz_checkpoints.SECONDS


def test_a_fifth_of_the_mutants_must_open() -> None:
    total = sum(generator.weight for generator in GENERATORS)
    assert sum(generator.weight for generator in GENERATORS if generator.expected == OPENS) >= total / 5


def test_what_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Base.make(tmp_path)
    path = tmp_path / "base.pth"
    expected = XLMWithLMHeadModel.from_pretrained(path).state_dict()
    assert fuzz_checkpoints.open_one(path, expected)[0] == "opened"
    assert fuzz_checkpoints.open_one(path, {**expected, "head.bias": expected["head.bias"] + 1})[0] == "differs"
    for error, result in ((MemoryError(), "memory"), (KeyError(), "other"), (AssertionError(), "other")):

        def fail(*_: object, error: Exception = error, **__: object) -> torch.nn.Module:
            raise error

        with monkeypatch.context() as patch:
            # A memory error is one behind the library's own, too.
            patch.setattr(
                "xlm.checkpoint.pickles.read_pickle" if result == "memory" else "xlm.checkpoint.load.empty_model", fail
            )
            assert fuzz_checkpoints.open_one(path, expected)[0] == result


def test_mutants_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    base = Base.make(tmp_path)
    for generator in GENERATORS:
        if generator.weight >= 0.5:
            once, again = (generator.make(base, random.Random(5)) for _ in range(2))
            assert once == again, generator.name
