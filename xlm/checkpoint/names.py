"""What a model's name stands for: a directory, a file, or a repository of the Hugging Face hub."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from xlm.checkpoint.hub import WHOLE, HubOptions, Part, as_hub_model, fetch
from xlm.errors import CheckpointError


def find_model(name_or_path: str | PathLike[str], part: Part = WHOLE, hub: HubOptions | None = None) -> Path:
    """The directory or file that a name stands for; one that is on the hub is fetched.

    Args:
        name_or_path: A directory, a file, or an id on the hub, perhaps with ``@revision``, in that order.
        part: What of a repository is wanted.
        hub: How to fetch it.

    Raises:
        CheckpointError: There is nothing of that name.
        HubError: It stands for a repository that is not there or could not be fetched.
        InputError: A revision that cannot be.
    """
    path, options = Path(name_or_path), hub or HubOptions()
    if path.is_dir() or path.is_file():
        return path
    model = as_hub_model(str(name_or_path), options.revision)
    if model is not None:
        return fetch(model, part, options)
    raise CheckpointError(
        "there is no such model",
        where=path,
        found="neither a directory nor a regular file of that name",
        expected="a directory with config.json and weights, a .pth checkpoint of the original, or an id on the "
        "Hugging Face hub, such as xlm-clm-ende-1024",
        remedy="check the path",
    )
