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


def write_demo_files(directory: Path) -> Path:
    """Writes ``demo.pth``, ``codes`` and ``vocab`` into a directory and returns it."""
    demo_maker().write_files(directory)
    return directory
