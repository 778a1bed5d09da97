"""Read and write the weights of the ``transformers`` layout: safetensors or pickled, in one file or in shards.

A safetensors file begins with the length of its header (8 bytes, little-endian). Then come the header (JSON that maps
names to dtype, shape and byte range, padded with spaces to a multiple of 8) and the tensors' bytes, without gaps. The
writer of the safetensors library first copies every tensor to memory. ``write_safetensors`` instead passes mapped
tensors through a small buffer.
Source: the format description of the safetensors project.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Container, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
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
# Allowed names of shards: plain file names, no paths, devices or hidden files.
_SHARD = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_LARGEST_HEADER = 1 << 22
_WEIGHT_FILES = (WEIGHTS_FILE, WEIGHTS_FILE + _INDEX_SUFFIX, _PICKLED_FILE, _PICKLED_FILE + _INDEX_SUFFIX)

_DTYPE_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 18


def weights_file(names: Container[str]) -> str | None:
    """Return the one of the file names to read weights from, or ``None`` if there is no weights file.

    ``model.safetensors`` comes first, then its index, then ``pytorch_model.bin``, then its index.
    """
    return next((name for name in _WEIGHT_FILES if name in names), None)


def is_index(name: str) -> bool:
    """Return whether a weights file is an index of shards."""
    return name.endswith(_INDEX_SUFFIX)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return the tensors of a model directory by their names in the files; the tensors are memory-mapped.

    Args:
        directory: Holds ``model.safetensors``, ``model.safetensors.index.json``, ``pytorch_model.bin`` or
            ``pytorch_model.bin.index.json``; the first of these that exists is read.

    Raises:
        CheckpointError: None of these files exists, a file is damaged, or the shards do not match the index.
    """
    name = weights_file({name for name in _WEIGHT_FILES if (directory / name).is_file()})
    if name is None:
        raise CheckpointError(
            "the directory holds no weights",
            where=directory,
            found=listing(directory),
            expected=f"{WEIGHTS_FILE} or {_PICKLED_FILE}, or either name followed by {_INDEX_SUFFIX}",
            remedy="fetch the missing file, or convert the original checkpoint into a new directory",
        )
    return _read_shards(directory / name) if is_index(name) else _read_file(directory / name)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the memory-mapped tensors of one safetensors file, by name.

    Raises:
        CheckpointError: The file cannot be read, or is not a complete safetensors file.
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
            expected="a complete safetensors file",
            remedy="fetch it again",
        ) from error


def _check_header(file: BinaryIO) -> None:
    """Refuse a safetensors header that claims more than any model needs; ``safe_open`` checks everything else."""
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
    header = dict(pairs)
    if len(header) != len(pairs):
        raise ValueError("a tensor name that occurs twice in the header")
    return header


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
    """Return the map in an index of shards: for each tensor, the name of the file that holds it.

    Raises:
        CheckpointError: The index is invalid, or names a file outside the directory of the index.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(
            "the index names no shards",
            where=index,
            found=f"weight_map: {weight_map!r:.80}",
            expected="a map from tensors to files",
        )
    suffix = Path(index.name.removesuffix(_INDEX_SUFFIX)).suffix
    for shard in sorted(set(weight_map.values())):
        if not _SHARD.fullmatch(shard) or not shard.endswith(suffix):
            raise CheckpointError(
                "the index names a file that is not beside it",
                where=index,
                found=repr(shard)[:200],
                expected=f"the plain name of a {suffix} file beside it",
                remedy="do not trust this model; no tool writes such an index",
            )
    return weight_map


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_weight_map(index)
    tensors: dict[str, Tensor] = {}
    stray: list[str] = []
    for shard in sorted(set(weight_map.values())):
        for name, tensor in _read_file(index.parent / shard).items():
            if weight_map.get(name) != shard or name in tensors:
                stray.append(f"{name} (in {shard}; in the index {weight_map.get(name, 'absent')})")
            tensors[name] = tensor
    missing = [
        f"{name} (in {shard} according to the index)" for name, shard in weight_map.items() if name not in tensors
    ]
    if stray or missing:
        raise CheckpointError(
            "the shards do not match the index",
            where=index,
            found="; ".join([*(f"extra: {name}" for name in stray[:8]), *(f"missing: {name}" for name in missing[:8])]),
            expected="each tensor of weight_map once, in the file that weight_map names",
            remedy="fetch the index and all its shards again, from one revision",
        )
    return tensors


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def chunks(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the values of a tensor, in order, as flat CPU tensors of up to two megabytes."""
    for piece in torch.split(tensor.detach().reshape(-1), _CHUNK):
        yield piece.to(device="cpu", dtype=dtype)


def bits(piece: Tensor) -> Tensor:
    """View a flat tensor as integers, to compare values bit by bit: NaN equals NaN, and 0.0 differs from -0.0."""
    return piece.contiguous().view(_BITS[piece.element_size()])


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file.

    Args:
        path: The file to write.
        tensors: Tensors by name, on the CPU, of any shape and floating type.
        dtype: Type to write; ``None`` keeps the type of each tensor.

    Raises:
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # Write wider types first. This aligns every tensor to its item size, as readers that map the file require.
    order = sorted(tensors, key=lambda name: (-(dtype or tensors[name].dtype).itemsize, name))
    end = 0
    for name in order:
        tensor, file_dtype = tensors[name], dtype or tensors[name].dtype
        begin, end = end, end + tensor.numel() * file_dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPE_CODES[file_dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _reserve(file.fileno(), 8 + len(text) + end)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in chunks(tensors[name], dtype or tensors[name].dtype):
                file.write(bits(piece).numpy().data)


def _reserve(descriptor: int, size: int) -> None:
    """Reserve disk space, so that a full disk raises an error at once. On ext4 this also makes writing much faster."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot reserve space
            raise


def differing_tensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> list[str]:
    """Compare a file with tensors, and return the names that are missing, extra, or differ in any bit.

    The arguments are those of ``write_safetensors``. The file is read through one small buffer, not mapped, so memory
    stays constant.

    Raises:
        SafetensorError: The safetensors library cannot open the file.
        OSError: The file cannot be read.
    """
    with safe_open(path, framework="pt") as reader:
        names = set(reader.keys())
    differing = sorted(names ^ set(tensors))
    buffer = torch.empty(_CHUNK * 8, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(names & set(tensors), key=lambda name: header[name]["data_offsets"]):
            tensor, file_dtype, entry = tensors[name], dtype or tensors[name].dtype, header[name]
            file.seek(8 + length + entry["data_offsets"][0])
            same = entry["dtype"] == _DTYPE_CODES[file_dtype] and entry["shape"] == list(tensor.shape)
            if not same or not all(_next_bytes_are(file, piece, buffer) for piece in chunks(tensor, file_dtype)):
                differing.append(name)
    return differing


def _next_bytes_are(file: RawIOBase, piece: Tensor, buffer: Tensor) -> bool:
    data = buffer[: piece.numel() * piece.element_size()]
    view = data.numpy().data
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:
            return False
        filled += count
    # numpy compares in this thread. torch would use several, which wait for each other after each piece.
    return bool(np.array_equal(data.view(_BITS[piece.element_size()]).numpy(), bits(piece).numpy()))
