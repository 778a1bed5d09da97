"""The small files that the demo makes, for tests that need a whole checkpoint with its codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.conftest import REPOSITORY


def demo_maker() -> ModuleType:
    """``scripts/make_demo_checkpoint.py`` as a module."""
    path = REPOSITORY / "scripts" / "make_demo_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_demo_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_demo_files(directory: Path, *, as_original: bool = False) -> Path:
    """Writes ``demo.pth``, ``codes`` and ``vocab`` into a directory and returns it.

    Args:
        directory: Where.
        as_original: Whether the model has as many positions as the original's code asks for; else it has few.
    """
    maker = demo_maker()
    positions = maker.POSITIONS_OF_THE_ORIGINAL if as_original else maker.N_POSITIONS
    maker.write_files(directory, positions=positions)
    return directory
