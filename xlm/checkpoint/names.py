"""What the name of a model stands for: a directory or file, or a model that comes with the package."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path

from xlm.errors import CheckpointError


def bundled_models() -> dict[str, Path]:
    """The models that come with the package, by name, each with its directory."""
    directory = Path(str(resources.files("xlm"))) / "models"
    return {path.name: path for path in sorted(directory.glob("*")) if path.is_dir()}


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The directory or file of a model: the one of that path when there is one, else the bundled model of that name.

    Raises:
        CheckpointError: There is neither.
    """
    path = Path(name_or_path)
    if path.is_dir() or path.is_file():
        return path
    bundled = bundled_models()
    if (name := os.fspath(name_or_path)) in bundled:
        return bundled[name]
    near = difflib.get_close_matches(name, bundled, n=1, cutoff=0.75)
    raise CheckpointError(
        "there is no such model",
        where=path,
        found="neither a directory nor a regular file of that name, nor a bundled model",
        expected="a directory with config.json and weights, a .pth checkpoint of the original, or one of the bundled "
        f"models: {', '.join(bundled)}",
        remedy=(f"did you mean {near[0]!r}? Otherwise check" if near else "check")
        + " the path; models are not fetched from the Hugging Face hub yet: fetch the repository "
        "(for instance with `hf download`) and give its directory",
    )
