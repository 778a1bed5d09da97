"""Write safetensors files piece by piece.

The library's own writer first copies every tensor to memory; this one passes mapped tensors through a small buffer.

Format: 8 bytes length of the header (little endian), the header (JSON: names to dtype, shape and byte range, padded
with spaces to a multiple of 8), then the tensors' bytes without gaps.
Source: the format description of the safetensors project.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_DTYPE_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 18


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def chunks(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the values of a tensor in order, in flat pieces of up to two megabytes on the CPU.

    Args:
        tensor: A tensor of any shape, on any device.
        dtype: Type of the pieces.
    """
    for piece in torch.split(tensor.detach().reshape(-1), _CHUNK):
        yield piece.to(device="cpu", dtype=dtype)


def bits(piece: Tensor) -> Tensor:
    """Return a flat tensor's memory as integers of the same width, which are equal only if every bit is."""
    return piece.contiguous().view(_BITS[piece.element_size()])


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file.

    Args:
        path: The file.
        tensors: Names to tensors on the CPU, of any shape and floating type.
        dtype: Type to write; ``None`` keeps each tensor's own.

    Raises:
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # Wider types first: this aligns every tensor to its item size, which readers that map the file need.
    order = sorted(tensors, key=lambda name: (-(dtype or tensors[name].dtype).itemsize, name))
    end = 0
    for name in order:
        kind = dtype or tensors[name].dtype
        begin, end = end, end + tensors[name].numel() * kind.itemsize
        header[name] = {
            "dtype": _DTYPE_CODES[kind],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _reserve(file.fileno(), 8 + len(text) + end)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in chunks(tensors[name], dtype or tensors[name].dtype):
                file.write(bits(piece).numpy().data)


def _reserve(descriptor: int, size: int) -> None:
    """Reserve disk space: a full disk shows at once, and writing is several times faster (ext4, Linux)."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot reserve space
            raise


def differing_tensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> list[str]:
    """Return the names whose values in a file differ in any bit from those given to ``write_safetensors``.

    Plain reads through one small buffer, instead of a mapping, keep memory constant.

    Args:
        path: The file.
        tensors: What was written.
        dtype: The type it was written in; ``None`` means each tensor's own.

    Returns:
        The names that differ, are missing, or are extra.

    Raises:
        SafetensorError: The library itself cannot open the file.
        OSError: The file cannot be read.
    """
    with safe_open(path, framework="pt") as opened:
        names = set(opened.keys())
    differing = sorted(names ^ set(tensors))
    buffer = torch.empty(_CHUNK * 8, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in sorted(names & set(tensors), key=lambda name: header[name]["data_offsets"]):
            kind = dtype or tensors[name].dtype
            entry = header[name]
            file.seek(8 + length + entry["data_offsets"][0])
            same = entry["dtype"] == _DTYPE_CODES[kind] and entry["shape"] == list(tensors[name].shape)
            if not same or not all(_next_bytes_are(file, piece, buffer) for piece in chunks(tensors[name], kind)):
                differing.append(name)
    return differing


def _next_bytes_are(file: RawIOBase, piece: Tensor, buffer: Tensor) -> bool:
    found = buffer[: piece.numel() * piece.element_size()]
    view = found.numpy().data
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])
        if not count:
            return False
        filled += count
    return torch.equal(found.view(_BITS[piece.element_size()]), bits(piece))
