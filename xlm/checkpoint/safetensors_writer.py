"""A safetensors file written piece by piece.

The library's own writer first copies every tensor to memory; here a checkpoint that is mapped from a file passes
through one small buffer.

Format: 8 bytes length of the header (little endian), the header (JSON: names to dtype, shape and byte range, padded
with spaces to a multiple of 8), then the tensors' bytes without gaps.
Source: the format description of the safetensors project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_DTYPE_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
_CHUNK = 1 << 21


def dtype_name(dtype: torch.dtype) -> str:
    """The type's name without ``torch.``."""
    return str(dtype).removeprefix("torch.")


def chunks(tensor: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The tensor's values in order, in flat pieces of a few megabytes, as ``dtype``.

    Args:
        tensor: Of any shape, on the CPU.
        dtype: Of the pieces.
    """
    for piece in torch.split(tensor.detach().reshape(-1), _CHUNK):
        yield piece.to(dtype)


def raw_bytes(piece: Tensor) -> memoryview:
    """The memory of a flat tensor."""
    return piece.contiguous().view(torch.uint8).numpy().data


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Writes tensors under their names.

    Args:
        path: The file.
        tensors: Names to tensors on the CPU, of any shape and floating type.
        dtype: Type to write; ``None`` means each tensor's own.

    Raises:
        OSError: The file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # Wider types first keeps every tensor on a multiple of its item size, which mapping readers need.
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
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for piece in chunks(tensors[name], dtype or tensors[name].dtype):
                file.write(raw_bytes(piece))
