"""Read the pickles inside checkpoints; build plain data and nothing else.

The reader knows the opcodes that ``torch.save`` writes in protocols 1 to 5, and the names that checkpoints use. It
never imports a name: each name selects a function of this module. A storage is only a record of what the pickle claims,
and tensors stay empty until the caller has compared these claims with the file.

A limit on the bytes and opcodes of a pickle bounds memory and time, whatever lengths and shapes the pickle claims.

Source: the opcodes' descriptions in Python's ``pickletools``; ``torch._utils`` and ``numpy`` for the arguments.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST_PICKLE = 1 << 26
"""Maximum bytes of a pickle; a model with 250,000 words needs 15 million."""

MOST_STEPS = 1 << 22
"""Maximum opcodes of a pickle; a model with 250,000 words needs 2 million."""

MOST_TENSORS, MOST_DIMENSIONS = 10_000, 8
"""Maximum number of tensors in a file, and of dimensions of a tensor."""

_MOST_USES = 8
_LARGEST_SIZE = 1 << 48
# A dict is slow if the hashes of its keys collide. Python randomises the hashes of text but not of numbers, so a file
# can contain numbers that all collide. Keys other than text are therefore limited.
_MOST_OTHER_KEYS = 5_000
_LONGEST_KEY = 8
_AHEAD = 1000
_LONGEST_INTEGER = 640  # in decimal digits; an integer of the opcode LONG1 (255 bytes) has fewer digits

_DTYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}
_NUMPY_TYPE = re.compile(r"b1|[iu][1248]|f[248]")

_LONG_BINGET, _LONG_BINPUT, _MEMOIZE, _STOP = (
    op[0] for op in (pickle.LONG_BINGET, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.STOP)
)
_BININT, _BININT1, _BININT2 = (op[0] for op in (pickle.BININT, pickle.BININT1, pickle.BININT2))
_BINUNICODE, _SHORT_BINUNICODE = pickle.BINUNICODE[0], pickle.SHORT_BINUNICODE[0]
_uint16 = Struct("<H").unpack_from
_int32 = Struct("<i").unpack_from
_uint32 = Struct("<I").unpack_from
_uint64 = Struct("<Q").unpack_from
_float64 = Struct(">d").unpack_from


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """A storage as a pickle describes it: its key, its type, and its number of values."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, slots=True)
class TensorClaim:
    """A tensor that is still empty, and the view of a storage that it will become; offset and strides count values."""

    tensor: Tensor
    storage: StorageClaim
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PickledObject:
    """Contents of a pickle: its value, storages by key, tensors, and the position in the data where it ends."""

    value: Any
    storages: dict[str, StorageClaim]
    tensors: list[TensorClaim]
    end: int


@dataclass(frozen=True, slots=True)
class _Name:
    """Name of a function or class that a pickle refers to; it is never imported."""

    full: str


_EMPTY = _Name("an empty place of the memo")


def read_pickle(data: bytes, start: int = 0, *, most_steps: int = MOST_STEPS) -> PickledObject:
    """Read the pickle that begins at the position ``start``, with a limit on the number of opcodes.

    The value of a pickle consists of None, booleans, numbers, text, bytes, lists, tuples, dicts, numpy scalars and
    arrays, and tensors.

    Raises:
        ValueError: The data is not a pickle of plain data. Damaged data may also cause other exceptions.
    """
    reader = _Reader(data)
    end = reader.run(start, most_steps)
    return PickledObject(reader.stack[-1], reader.storages, reader.tensors, end)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []
        self.texts: dict[str, str] = {}  # maps equal texts to one object, so that comparing them is fast
        self.storages: dict[str, StorageClaim] = {}
        self.tensors: list[TensorClaim] = []
        self.uses = Counter[str]()  # how many values the tensors take from each storage
        self.other_keys = 0
        self.copied = 0

    def run(self, pos: int, most_steps: int) -> int:
        """Execute a pickle, and return the position after its last opcode. Frequent opcodes are inlined for speed."""
        data, stack, memo = self.data, self.stack, self.memo
        # A value that would end beyond the data is cut off, and reading the next opcode then raises an IndexError.
        for _ in range(most_steps):
            op = data[pos]
            pos += 1
            if op == _LONG_BINGET:
                stack.append(memo[_uint32(data, pos)[0]])
                pos += 4
            elif op == _BININT2:
                stack.append(_uint16(data, pos)[0])
                pos += 2
            elif op == _BININT:
                stack.append(_int32(data, pos)[0])
                pos += 4
            elif op == _BINUNICODE:
                pos = self._text(pos + 4, _uint32(data, pos)[0])
            elif op == _SHORT_BINUNICODE:
                pos = self._text(pos + 1, data[pos])
            elif op == _LONG_BINPUT:
                self._put(_uint32(data, pos)[0])
                pos += 4
            elif op == _MEMOIZE:
                memo.append(stack[-1])
            elif op == _BININT1:
                stack.append(data[pos])
                pos += 1
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op == _STOP:
                return pos
            else:
                handler = _HANDLERS.get(op)
                if handler is None:
                    raise _unknown(op)
                pos = handler(self, pos)
        raise ValueError(f"a pickle of more than {most_steps:,} opcodes")

    def _text(self, begin: int, size: int) -> int:
        text = str(self.data[begin : begin + size], "utf-8", "surrogatepass")
        self.stack.append(self.texts.setdefault(text, text))
        return begin + size

    def _put(self, index: int) -> None:
        memo = self.memo
        if index > len(memo):
            if index > min(len(self.data), MOST_STEPS):
                raise ValueError(f"memo index {index:,} in a pickle of only {len(self.data):,} bytes")
            memo.extend([_EMPTY] * (index - len(memo)))
        memo[index : index + 1] = [self.stack[-1]]

    def _line(self, pos: int) -> tuple[bytes, int]:
        end = self.data.index(b"\n", pos, pos + _LONGEST_INTEGER)
        return self.data[pos:end], end + 1

    def _items(self) -> list[Any]:
        """Pop all items above the last mark on the stack."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    # Each of the following methods executes one opcode. It takes the position of the opcode's argument, and returns the
    # position of the next opcode.

    def op_proto(self, pos: int) -> int:
        if self.data[pos] > 5:
            raise ValueError(f"a pickle of protocol {self.data[pos]}; 1 to 5 are read")
        return pos + 1

    def op_frame(self, pos: int) -> int:
        return pos + 8

    def op_int(self, pos: int) -> int:
        text, pos = self._line(pos)
        if text not in (b"00", b"01"):
            raise _unknown(pickle.INT[0])
        self.stack.append(text == b"01")
        return pos

    def op_long(self, pos: int) -> int:
        text, pos = self._line(pos)
        self.stack.append(int(text.removesuffix(b"L")))
        return pos

    def op_long1(self, pos: int) -> int:
        end = pos + 1 + self.data[pos]
        self.stack.append(int.from_bytes(self.data[pos + 1 : end], "little", signed=True))
        return end

    def op_binfloat(self, pos: int) -> int:
        self.stack.append(_float64(self.data, pos)[0])
        return pos + 8

    def op_short_binbytes(self, pos: int) -> int:
        return self._bytes(pos + 1, self.data[pos])

    def op_binbytes(self, pos: int) -> int:
        return self._bytes(pos + 4, _uint32(self.data, pos)[0])

    def op_bytearray8(self, pos: int) -> int:
        return self._bytes(pos + 8, _uint64(self.data, pos)[0])

    def _bytes(self, begin: int, size: int) -> int:
        self.stack.append(self.data[begin : begin + size])
        return begin + size

    def op_binput(self, pos: int) -> int:
        self._put(self.data[pos])
        return pos + 1

    def op_binget(self, pos: int) -> int:
        self.stack.append(self.memo[self.data[pos]])
        return pos + 1

    def op_mark(self, pos: int) -> int:
        self.marks.append(len(self.stack))
        return pos

    def op_empty_list(self, pos: int) -> int:
        self.stack.append([])
        return pos

    def op_empty_dict(self, pos: int) -> int:
        self.stack.append({})
        return pos

    def op_tuple1(self, pos: int) -> int:
        self.stack[-1:] = [(self.stack[-1],)]
        return pos

    def op_tuple2(self, pos: int) -> int:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]
        return pos

    def op_tuple3(self, pos: int) -> int:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]
        return pos

    def op_tuple(self, pos: int) -> int:
        self.stack.append(tuple(self._items()))
        return pos

    def op_append(self, pos: int) -> int:
        self._extend([self.stack.pop()])
        return pos

    def op_appends(self, pos: int) -> int:
        self._extend(self._items())
        return pos

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"items appended to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def op_setitem(self, pos: int) -> int:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])
        return pos

    def op_setitems(self, pos: int) -> int:
        self._update(self._items())
        return pos

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict and type(target) is not OrderedDict:
            raise ValueError(f"keys set in a {type(target).__name__}")
        size = len(target) + len(items) // 2
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is int and 0 <= key <= len(target) + _AHEAD):
                self._check_key(key)
            target[key] = value
        if len(target) != size:
            raise ValueError("a key that occurs twice in a dictionary")

    def _check_key(self, key: object) -> None:
        self.other_keys += 1
        parts = key if type(key) is tuple else (key,)
        plain = (str, int, float, bool, type(None))
        if len(parts) > _LONGEST_KEY or any(type(part) not in plain for part in parts):
            raise ValueError(f"a dictionary key of type {type(key).__name__} that is not plain data")
        if self.other_keys > _MOST_OTHER_KEYS:
            raise ValueError(f"more than {_MOST_OTHER_KEYS:,} keys other than text or consecutive integers")

    def op_global(self, pos: int) -> int:
        module, pos = self._line(pos)
        name, pos = self._line(pos)
        self._name(module.decode(), name.decode())
        return pos

    def op_stack_global(self, pos: int) -> int:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not text")
        self._name(module, name)
        return pos

    def _name(self, module: str, name: str) -> None:
        known = _NAMES.get(f"{module}.{name}")
        if known is None:
            raise ValueError(f"the name {module:.100}.{name:.100}, which no checkpoint needs")
        self.stack.append(known)

    def op_reduce(self, pos: int) -> int:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not _Name or name.full not in _CALLS or type(arguments) is not tuple:
            raise ValueError("a call of something that is not a known function")
        self.stack.append(_CALLS[name.full](self, *arguments))
        return pos

    def op_build(self, pos: int) -> int:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            if type(state) is not tuple or state[1] not in ("<", "|", "=") or state[2:5] != (None, None, None):
                raise ValueError("a numpy type other than plain little-endian numbers")
        elif type(target) is np.ndarray and target.size == 0:
            _, shape, dtype, is_fortran, raw = state
            self._check_array(raw, dtype, shape)
            checked: Any = (1, shape, dtype, bool(is_fortran), raw)
            target.__setstate__(checked)
        elif type(target) is not OrderedDict or type(state) is not dict:  # drops the _metadata of a state dict
            raise ValueError(f"a state for a {type(target).__name__}, which no checkpoint needs")
        return pos

    def op_binpersid(self, pos: int) -> int:
        kind, name, key, _, numel, *views = self.stack.pop()
        if kind != "storage" or type(name) is not _Name or name.full not in _STORAGES or views not in ([], [None]):
            raise ValueError("a reference to something other than a storage")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise ValueError("a storage without a key, or of negative size")
        claim = StorageClaim(key, _STORAGES[name.full], numel)
        if self.storages.setdefault(key, claim) != claim:
            raise ValueError(f"storage {key:.20} is described with two types or sizes")
        self.stack.append(claim)
        return pos

    # A pickle can call only the following functions; it also supplies their arguments.

    def ordered_dict(self) -> OrderedDict[Any, Any]:
        return OrderedDict()

    def empty_bytes(self) -> bytes:
        return b""

    def tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> Tensor:
        if type(storage) is not StorageClaim or metadata:
            raise ValueError("a tensor without a storage, or with torch's conjugate or negative bit")
        if len(self.tensors) == MOST_TENSORS:
            raise ValueError(f"more than {MOST_TENSORS:,} tensors")
        self.uses[storage.key] += min(_check_view(storage, offset, shape, stride), storage.numel)
        if self.uses[storage.key] > _MOST_USES * storage.numel:
            raise ValueError(f"storage {storage.key:.20} is used by too many tensors")
        tensor = torch.empty(0, dtype=storage.dtype)
        self.tensors.append(TensorClaim(tensor, storage, offset, shape, stride))
        return tensor

    def parameter(self, data: Any, requires_grad: Any, hooks: Any) -> Tensor:
        if type(data) is not Tensor:
            raise ValueError("a parameter that is not a tensor")
        return data

    def encode(self, text: Any, encoding: Any) -> bytes:
        if type(encoding) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("text in an encoding other than latin1")
        self._count_copy(len(text))
        raw: bytes = str.encode(text, "latin-1")
        return raw

    def numpy_type(self, code: Any, *_: Any) -> np.dtype[Any]:
        if type(code) is not str or not _NUMPY_TYPE.fullmatch(code):
            raise ValueError("a numpy type other than plain numbers")
        return np.dtype(f"<{code}")

    def numpy_scalar(self, dtype: Any, raw: Any) -> Any:
        self._check_array(raw, dtype, (1,))
        return np.frombuffer(raw, dtype)[0]

    def empty_array(self, kind: Any, *_: Any) -> np.ndarray[Any, Any]:
        if kind is not _NAMES["numpy.ndarray"]:
            raise ValueError("a numpy array of an unknown class")
        return np.empty(0, np.int8)

    def array(self, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
        self._check_array(raw, dtype, shape)
        array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype).reshape(shape, order=order).copy(order)
        return array

    def _check_array(self, raw: Any, dtype: Any, shape: Any) -> None:
        if type(raw) is not bytes or not isinstance(dtype, np.dtype):
            raise ValueError("a numpy array of something other than plain numbers")
        if _numel(shape) * dtype.itemsize != len(raw):
            raise ValueError(f"a numpy array {shape} of {len(raw)} bytes")
        self._count_copy(len(raw))

    def _count_copy(self, size: int) -> None:
        # A few bytes of a pickle can request another copy of a long text, so the total size of copies is limited.
        self.copied += size
        if self.copied > 4 * len(self.data):
            raise ValueError("more copies of text and arrays than the pickle has bytes")


def _numel(shape: Any) -> int:
    """Check a shape, and return its number of values. No message shows an invalid shape, which may be huge."""
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape or strides that are not a tuple of up to {MOST_DIMENSIONS} integers")
    if not all(type(size) is int and 0 <= size < _LARGEST_SIZE for size in shape):
        raise ValueError(f"a shape or strides that are not integers from 0 to {_LARGEST_SIZE:,}")
    return math.prod(shape)


def _check_view(storage: StorageClaim, offset: Any, shape: Any, stride: Any) -> int:
    """Check that a tensor lies inside its storage, and return its number of values."""
    numel = _numel(shape)
    _numel(stride)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if numel else offset - 1
    if type(offset) is not int or not 0 <= offset <= storage.numel or last >= storage.numel:
        raise ValueError(
            f"a tensor of shape {shape} and strides {stride}, beyond its storage of {storage.numel:,} numbers"
        )
    return numel


def _unknown(op: int) -> ValueError:
    if op in b"FIPSVdglp":  # text opcodes that only protocol 0 uses
        return ValueError("a pickle of protocol 0; 1 to 5 are read")
    return ValueError(f"the pickle opcode 0x{op:02x}, which no checkpoint needs")


_CALLS: dict[str, Callable[..., Any]] = {
    "__builtin__.bytes": _Reader.empty_bytes,
    "_codecs.encode": _Reader.encode,
    "collections.OrderedDict": _Reader.ordered_dict,
    "numpy.dtype": _Reader.numpy_type,
    "torch._utils._rebuild_parameter": _Reader.parameter,
    "torch._utils._rebuild_tensor_v2": _Reader.tensor,
    # numpy 2 renamed numpy.core to numpy._core; files with either name exist.
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _Reader.empty_array),
            ("multiarray.scalar", _Reader.numpy_scalar),
            ("numeric._frombuffer", _Reader.array),
        )
    },
}

_NAMES = {full: _Name(full) for full in (*_CALLS, *_STORAGES, "numpy.ndarray")}

_CONSTANTS = {pickle.NONE[0]: None, pickle.NEWTRUE[0]: True, pickle.NEWFALSE[0]: False, pickle.EMPTY_TUPLE[0]: ()}
_HANDLERS: dict[int, Any] = {
    getattr(pickle, name.removeprefix("op_").upper())[0]: handler
    for name, handler in vars(_Reader).items()
    if name.startswith("op_")
}
