"""Fixtures for the tests of training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo_files import write_demo_files
from tests.training.runs import prepare_pairs, prepare_text, small_run, train_translator
from xlm.training.loop import train


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of prepared text."""
    return prepare_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def whole_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an uninterrupted run of ``small_run``."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    train(small_run(data, output))
    return output


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of prepared text and pairs for translation."""
    return prepare_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def translator(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a small translation model that has learnt something."""
    return train_translator(pairs, tmp_path_factory.mktemp("translator") / "run")


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with ``demo.pth``, ``codes`` and ``vocab``."""
    return write_demo_files(tmp_path_factory.mktemp("demo"))
