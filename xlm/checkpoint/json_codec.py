"""Encode plain Python data, including numpy arrays and tensors, as JSON, and decode it without loss.

JSON lacks tuples, sets, bytes, infinities, arrays, and dicts with keys other than text. Each is written as an object
with one key that names its type, such as ``$tuple``.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from xlm.errors import CheckpointError

_MOST_PARTS = 1_000_000
_MOST_BYTES = 1 << 23
_DEEPEST = 100
_ARRAY_TYPE = re.compile(r"[<>|=]?[biuf][1248]")  # np.dtype also accepts other text, such as lists of types
_TENSOR_TYPES = frozenset(
    {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.float32, torch.float64),
    }
)


def check_plain(value: Any, where: object) -> None:
    """Refuse a value that is not plain data, or is too large to store.

    A few bytes of a pickle can expand to nested lists that double at each level, or to a million references to one long
    text.

    Raises:
        CheckpointError: The value has too many parts or bytes, is nested too deeply, or holds a tensor that is not
            plain numbers.
    """
    stack, parts, size, problem = [(value, 0)], 0, 0, None
    while stack and problem is None:
        item, depth = stack.pop()
        if isinstance(item, dict | list | tuple | set):
            parts += len(item)
            if parts > _MOST_PARTS or depth > _DEEPEST:
                problem = f"more than {_MOST_PARTS:,} parts, or deeper than {_DEEPEST} levels"
            else:
                inside = [*item, *item.values()] if isinstance(item, dict) else item
                stack += [(part, depth + 1) for part in inside]
        elif isinstance(item, torch.Tensor):
            size += item.numel() * item.element_size()
            is_plain = item.layout == torch.strided and item.device.type == "cpu" and not item.is_conj()
            if not is_plain or item.dtype not in _TENSOR_TYPES or not has_own_numbers(item):
                problem = f"a tensor that is not plain numbers ({item.dtype}, {tuple(item.shape)})"
        elif isinstance(item, str | bytes):
            size += len(item)
        elif isinstance(item, np.ndarray):
            size += item.nbytes
        elif type(item) is int:
            size += item.bit_length() // 8
        if size > _MOST_BYTES:
            problem = problem or f"more than {_MOST_BYTES:,} bytes"
    if problem is not None:
        raise CheckpointError(
            "the parameters cannot be stored", where=where, found=problem, expected="plain data of moderate size"
        )


def has_own_numbers(tensor: torch.Tensor) -> bool:
    """Return whether each value of a strided tensor has its own memory, unlike in an expanded tensor."""
    last = 0  # the largest offset in the dimensions seen so far
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= last:
            return not tensor.numel()
        last += (size - 1) * stride
    return True


def to_json(value: Any) -> Any:
    """Encode a value as objects that ``json.dumps`` accepts.

    Args:
        value: None, booleans, numbers, text, bytes, lists, tuples, sets, dicts, numpy scalars and arrays of numbers,
            tensors of numbers; nested to any depth.

    Raises:
        CheckpointError: A value has a type that is not listed above.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if type(value) is tuple:
        return {"$tuple": [to_json(item) for item in value]}
    if isinstance(value, set):
        return {"$set": [to_json(item) for item in sorted(value, key=repr)]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, np.generic):
        return {"$number": _pack(np.asarray(value))}
    if isinstance(value, np.ndarray):
        return {"$array": _pack(value)}
    if isinstance(value, torch.Tensor):
        return {"$tensor": _pack(value.detach().numpy())}
    found, expected = f"{type(value).__name__}: {value!r:.80}", "numbers, text, lists, tuples, dicts or arrays"
    raise CheckpointError("a value of this type cannot be stored", where="params", found=found, expected=expected)


def from_json(value: Any) -> Any:
    """Decode what ``to_json`` returned.

    Raises:
        CheckpointError: The value is not a result of ``to_json``, or its arrays exceed the limit of ``check_plain``.
    """
    try:
        return _Reader().read(value)
    except (KeyError, ValueError, TypeError, RecursionError, zlib.error) as error:
        raise CheckpointError(
            "a stored value cannot be read",
            where="config.json, key xlm",
            found="values nested too deeply"
            if isinstance(error, RecursionError)
            else f"{type(error).__name__}: {error}",
            remedy="convert the original checkpoint again",
        ) from error


def pack_integers(numbers: Sequence[int]) -> Any:
    """Encode integers compactly; ``from_json`` decodes them to an array."""
    return to_json(np.asarray(numbers, dtype=np.int64))


def without_numpy(value: Any) -> Any:
    """Return a value with numpy scalars replaced by Python numbers, and arrays by tensors.

    By default ``torch.load`` refuses files that hold numpy objects.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {without_numpy(key): without_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(without_numpy(item) for item in value)
    return value


def _pack(array: np.ndarray[Any, Any]) -> list[Any]:
    if array.dtype.kind not in "biuf":
        found, expected = f"an array of type {array.dtype}", "an array of numbers"
        raise CheckpointError("a value of this type cannot be stored", where="params", found=found, expected=expected)
    raw = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    return [array.dtype.str, list(array.shape), raw]


class _Reader:
    """Decoder of one value. It limits the total size of arrays, because a short text can decode to a huge array."""

    def __init__(self) -> None:
        self._remaining = _MOST_BYTES

    def read(self, value: Any) -> Any:
        if isinstance(value, list):
            return self._items(value)
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), "")
        if not isinstance(tag, str) or not tag.startswith("$"):
            return {key: self.read(item) for key, item in value.items()}
        return _READERS[tag](self, value[tag])

    def _items(self, items: Any) -> list[Any]:
        return [self.read(item) for item in items]

    def _array(self, packed: list[Any]) -> np.ndarray[Any, Any]:
        code, shape, raw = packed
        if not _ARRAY_TYPE.fullmatch(code):
            raise ValueError(f"an array of type {code:.20}")
        dtype = np.dtype(code)
        size = math.prod(shape) * dtype.itemsize
        if not 0 <= size <= self._remaining:
            raise ValueError(f"arrays of more than {_MOST_BYTES:,} bytes")
        self._remaining -= size
        # Read one byte more than expected, to detect longer data without decompressing all of it.
        data = zlib.decompressobj().decompress(base64.b64decode(raw), size + 1)
        array: np.ndarray[Any, Any] = np.frombuffer(data, dtype=dtype).reshape(shape).copy()
        return array


_READERS: dict[str, Callable[[_Reader, Any], Any]] = {
    "$float": lambda _, text: float(text),
    "$bytes": lambda _, text: base64.b64decode(text),
    "$tuple": lambda reader, items: tuple(reader._items(items)),
    "$set": lambda reader, items: set(reader._items(items)),
    "$dict": lambda reader, items: {reader.read(key): reader.read(item) for key, item in items},
    "$number": lambda reader, packed: reader._array(packed)[()],
    "$array": lambda reader, packed: reader._array(packed),
    "$tensor": lambda reader, packed: torch.from_numpy(reader._array(packed)),
}
