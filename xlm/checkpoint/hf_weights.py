"""Read the weights of the ``transformers`` layout: safetensors or pickled, in one file or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from xlm._io.files import open_regular
from xlm.checkpoint.hf_config import listing, read_json
from xlm.checkpoint.pickle_reader import MOST_DIMENSIONS, MOST_TENSORS
from xlm.checkpoint.pickles import load_pickle
from xlm.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
_PICKLED_FILE = "pytorch_model.bin"
_INDEX_SUFFIX = ".index.json"
# Plain names only: no paths, no device names, no hidden files.
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_LARGEST_HEADER = 1 << 22
_FORMS = (WEIGHTS_FILE, WEIGHTS_FILE + _INDEX_SUFFIX, _PICKLED_FILE, _PICKLED_FILE + _INDEX_SUFFIX)


def first_form(names: Container[str]) -> str | None:
    """Return the file to read weights from: ``model.safetensors`` or its index, else the pickled ones."""
    return next((name for name in _FORMS if name in names), None)


def is_index(name: str) -> bool:
    """Return whether a file of weights is an index of shards."""
    return name.endswith(_INDEX_SUFFIX)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return the tensors of a directory under their own names, mapped from its files.

    Args:
        directory: Holds ``model.safetensors``, ``model.safetensors.index.json``, ``pytorch_model.bin`` or
            ``pytorch_model.bin.index.json``; the first of these that exists is read.

    Raises:
        CheckpointError: None of them exists, a file is damaged, or the shards do not match the index.
    """
    found = first_form({name for name in _FORMS if (directory / name).is_file()})
    if found is not None:
        return _read_shards(directory / found) if is_index(found) else _read_file(directory / found)
    raise CheckpointError(
        "the directory holds no weights",
        where=directory,
        found=listing(directory),
        expected=f"{WEIGHTS_FILE} or {_PICKLED_FILE}, or one of them with {_INDEX_SUFFIX}",
        remedy="fetch the missing file, or convert the original checkpoint into a new directory",
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file, mapped.

    Raises:
        CheckpointError: The file cannot be read or is not a whole safetensors file.
    """
    try:
        with open_regular(path, error=CheckpointError, expected="a safetensors file") as raw:
            _check_header(raw)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            "the file cannot be read as safetensors",
            where=path,
            found=str(error),
            expected="a whole safetensors file",
            remedy="fetch it again",
        ) from error


def _check_header(file: BinaryIO) -> None:
    """Refuse headers that make the library spend memory or time on mere claims; it checks all else itself."""
    size = int.from_bytes(file.read(8), "little")
    if size > _LARGEST_HEADER:
        raise ValueError(f"a header of {size:,} bytes; at most {_LARGEST_HEADER:,} are read")
    header = json.loads(file.read(size), object_pairs_hook=_without_doubles)
    if not isinstance(header, dict):
        raise ValueError("a header that is not a JSON object")
    if len(header) > MOST_TENSORS:
        raise ValueError(f"{len(header):,} tensors; at most {MOST_TENSORS:,} are read")
    for name, entry in header.items():
        if name != "__metadata__" and len(entry["shape"]) > MOST_DIMENSIONS:
            raise ValueError(f"tensor {name:.100} with {len(entry['shape']):,} dimensions")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that occurs twice in the header")
    return found


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    loaded: Any = load_pickle(path)
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise CheckpointError(
            "the file does not hold a model's weights", where=path, found=type(loaded).__name__, expected="a state dict"
        )
    return dict(loaded)


def read_weight_map(index: Path) -> dict[str, str]:
    """Return the map of an index, from names of tensors to names of the files beside it that hold them.

    Raises:
        CheckpointError: The index is invalid, or names a file outside its directory.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(
            "the index names no shards", where=index, found=repr(weight_map)[:80], expected="weight_map: names to files"
        )
    suffix = Path(index.name.removesuffix(_INDEX_SUFFIX)).suffix
    for shard in sorted(set(weight_map.values())):
        if not _SHARD.fullmatch(shard) or not shard.endswith(suffix):
            raise CheckpointError(
                "the index points elsewhere",
                where=index,
                found=repr(shard)[:200],
                expected=f"the plain name of a {suffix} file beside it",
                remedy="do not trust this model: no tool writes such an index",
            )
    return weight_map


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_weight_map(index)
    tensors: dict[str, Tensor] = {}
    stray: list[str] = []
    for shard in sorted(set(weight_map.values())):
        for name, tensor in _read_file(index.parent / shard).items():
            if weight_map.get(name) != shard or name in tensors:
                stray.append(f"{name} (in {shard}, the index says {weight_map.get(name, 'nothing')})")
            tensors[name] = tensor
    missing = [f"{name} (in {shard}, says the index)" for name, shard in weight_map.items() if name not in tensors]
    if stray or missing:
        raise CheckpointError(
            "the shards do not match the index",
            where=index,
            found="; ".join([*(f"extra: {name}" for name in stray[:8]), *(f"missing: {name}" for name in missing[:8])]),
            expected="each tensor of weight_map once, in the file that weight_map names",
            remedy="fetch the index and all its shards again, from one revision",
        )
    return tensors
