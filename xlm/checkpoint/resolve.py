"""Resolve a model's name to a directory, a file, a bundled model, or a repository on the Hugging Face hub."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path

from xlm._io.arguments import as_path
from xlm.checkpoint.hub import WHOLE, HubOptions, Part, as_hub_model, fetch
from xlm.errors import CheckpointError, HubError


def bundled_models() -> dict[str, Path]:
    """Return the directories of the bundled models, by name."""
    directory = Path(str(resources.files("xlm"))) / "models"
    return {path.name: path for path in sorted(directory.glob("*")) if path.is_dir()}


def find_model(name_or_path: str | os.PathLike[str], part: Part = WHOLE, hub: HubOptions | None = None) -> Path:
    """Return the directory or file of a model, fetched from the hub if necessary.

    Args:
        name_or_path: A directory, a file, the name of a bundled model, or an id on the hub, optionally with
            ``@revision``. They are tried in this order.
        part: The files of a repository that are needed.
        hub: Options for fetching from the hub.

    Raises:
        CheckpointError: No such model exists, and the name cannot be an id on the hub.
        HubError: The repository does not exist or could not be fetched.
        InputError: The name is neither a str nor a path, or the revision is invalid.
    """
    path = as_path("the model's name", name_or_path)
    if not os.fspath(name_or_path):  # as a path, an empty name would be the current directory
        raise CheckpointError(
            "no such model", where="the model's name", found="an empty name", remedy="give a name or a path"
        )
    options = hub or HubOptions()
    try:
        if path.is_dir() or path.is_file():
            return path
    except OSError:
        pass  # the name is too long to be a path
    bundled = bundled_models()
    if (name := os.fspath(name_or_path)) in bundled:
        return bundled[name]
    model = as_hub_model(name, options.revision)
    if model is not None:
        try:
            return fetch(model, part, options)
        except HubError as error:
            similar = difflib.get_close_matches(name, bundled, n=1, cutoff=0.75)
            hint = (
                f"did you mean the bundled model {similar[0]!r}?"
                if similar
                else "no local file has this name; check the path."
            )
            error.remedy = f"{hint} For a model on the hub: {error.remedy}"
            raise
    raise CheckpointError(
        "no such model",
        where=path,
        found="neither a directory nor a regular file of that name",
        expected="a directory with config.json and weights, a .pth checkpoint of the original, a bundled model "
        f"({', '.join(bundled)}), or an id on the Hugging Face hub, such as xlm-clm-ende-1024",
        remedy="check the path",
    )
