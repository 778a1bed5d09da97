"""Checkpoints in the original's format for tests, made without this library, whole or spoilt on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.demo_files import write_demo_files


def demo_data(directory: Path, *, as_original: bool = False) -> dict[str, Any]:
    """What the demo's checkpoint holds; its options are those of ``write_demo_files``."""
    files = write_demo_files(directory, as_original=as_original)
    data: dict[str, Any] = torch.load(files / "demo.pth", weights_only=False)
    return data


def save(data: object, path: Path, *, legacy: bool = False) -> Path:
    """Saves with torch, in its serialisation of today or of before 2020."""
    torch.save(data, path, _use_new_zipfile_serialization=not legacy)
    return path


def spoilt(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The demo's checkpoint after one change."""
    data = demo_data(directory, as_original=True)
    change(data)
    return save(data, directory / "spoilt.pth")
