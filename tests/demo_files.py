"""The small files of the demo, for tests that need a complete checkpoint with its codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.conftest import REPOSITORY


def demo_maker() -> ModuleType:
    """Import ``scripts/make_demo_checkpoint.py`` as a module."""
    path = REPOSITORY / "scripts" / "make_demo_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_demo_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_demo_files(directory: Path, *, as_original: bool = False) -> Path:
    """Write ``demo.pth``, ``codes`` and ``vocab`` into a directory and return the directory.

    Args:
        directory: An existing directory.
        as_original: Whether the model has as many positions as the original's code requires, instead of a few.
    """
    maker = demo_maker()
    positions = maker.POSITIONS_OF_THE_ORIGINAL if as_original else maker.N_POSITIONS
    maker.write_files(directory, positions=positions)
    return directory
