"""Reading torch's pickled files without letting them run anything.

``torch.load(weights_only=True)`` interprets a pickle itself and calls nothing but an allow-list. The original's files
also hold numpy scalars and arrays, whose constructors torch leaves off that list. They are not put on it here either:
the names in the file are bound to the plain records of this module, which understand numbers and nothing else, and
become numpy objects only after the file is closed.
"""

from __future__ import annotations

import mmap
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xlm.checkpoint.first_bytes import empty, not_opened
from xlm.checkpoint.zip_check import damaged_entries, read_directory, read_entry
from xlm.errors import CheckpointError

_NUMBER = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_ZIP_MAGIC = b"PK\x03\x04"
_ATOMS = frozenset({str, int, float, bool, type(None), torch.Tensor})
# torch keeps its allow-list in one global set.
_allow_list_lock = threading.Lock()


class _Dtype:
    """A numpy type of plain numbers, by its code."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not _NUMBER.fullmatch(code):
            raise ValueError(f"numpy type {code!r}: only whole and floating point numbers are read")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">", "=", "|") or any(field is not None for field in state[2:5]):
            raise ValueError("numpy type with fields: only whole and floating point numbers are read")
        self.code = byte_order + self.code.lstrip("<>=|")

    def value(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _Array:
    """A numpy array of plain numbers: type, shape, bytes."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or not isinstance(shape, tuple):
            raise ValueError("numpy array of something else than plain numbers")
        self.state = state

    def value(self) -> np.ndarray[Any, Any]:
        _, shape, dtype, is_fortran, raw = self.state
        flat: np.ndarray[Any, Any] = np.frombuffer(raw, dtype=dtype.value()).copy()
        array: np.ndarray[Any, Any] = flat.reshape(shape, order="F" if is_fortran else "C")
        return array


class _Scalar:
    """A numpy number: type, bytes."""

    def __init__(self, dtype: _Dtype, raw: bytes) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise ValueError("numpy scalar of something else than a plain number")
        self.dtype, self.raw = dtype, raw

    def value(self) -> Any:
        return np.frombuffer(self.raw, dtype=self.dtype.value())[0]


def _new_array(kind: object, *_: object) -> _Array:
    if kind is not _Array:
        raise ValueError("numpy array of an unknown class")
    return _Array()


_AllowList = list[Callable[..., Any] | tuple[Callable[..., Any], str]]

_STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    # numpy 2 renamed the module; files of both times exist.
    (_new_array, "numpy.core.multiarray._reconstruct"),
    (_Scalar, "numpy.core.multiarray.scalar"),
    (_new_array, "numpy._core.multiarray._reconstruct"),
    (_Scalar, "numpy._core.multiarray.scalar"),
]


# A name in a pickle stands there in plain text. Of other modules nothing is on torch's allow-list anyway.
_GLOBAL = re.compile(rb"c((?:torch|numpy|builtins|__builtin__|collections|_codecs)[\w.]*)\n([\w.]+)\n")
_NAMES = frozenset(
    {
        *(name for _, name in _STAND_INS),
        "_codecs.encode",
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
)
_STORAGE = re.compile(r"torch\.(Half|Float|Double|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage")


def load_pickle(path: Path) -> Any:
    """What a ``torch.save`` file holds: tensors, numbers, text, and lists, tuples and dicts of them.

    Args:
        path: A file in torch's zip format, which is mapped and read only where it is looked at, or in the
            serialisation from before 2020.

    Returns:
        The object that was saved, on the CPU, with numpy scalars and arrays as such.

    Raises:
        CheckpointError: The file is missing, empty, cut short, damaged, or not of this kind, or it asks for
            something beside plain data; then nothing of that was run.
    """
    entries = _check_file(path)
    try:
        with ThreadPoolExecutor(max_workers=1) as pool:
            damaged = None if entries is None else pool.submit(damaged_entries, path, entries)
            _refuse_other_names(path, entries)
            with _allowing_only([*_STAND_INS]):
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=entries is not None)
            if damaged is not None and damaged.result():
                raise ValueError(f"damaged: the checksum of {', '.join(damaged.result()[:4])} is wrong")
        return _resolve(loaded, {})
    except Exception as error:
        # Whatever a damaged or hostile file makes the reader stumble over, the answer to the user is one and the same.
        raise CheckpointError(
            "the file cannot be read as a checkpoint",
            where=path,
            found=_first_sentence(error),
            expected="a file written by torch.save that holds tensors and plain data, whole",
            remedy="fetch it again if it is damaged; a file that wants code to be run is refused, whoever sent it",
        ) from error


def _check_file(path: Path) -> list[zipfile.ZipInfo] | None:
    """The entries of a file in torch's zip format, else ``None``; raises when it cannot be a checkpoint at all."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(
                "the file cannot be opened", where=path, found="not a regular file", expected="a checkpoint on a disk"
            )
        with path.open("rb") as file:
            head = file.read(len(_ZIP_MAGIC))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise not_opened(path, error) from error
    if not head:
        raise empty(path)
    if head != _ZIP_MAGIC:
        return None
    try:
        entries = read_directory(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            "the file is cut short or damaged",
            where=path,
            found=f"{path.stat().st_size} bytes without a readable directory at the end ({error})",
            expected="a whole file written by torch.save",
            remedy="fetch it again",
        ) from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        # torch never compresses; a compressed entry can unpack to any size.
        raise CheckpointError(
            "the file holds compressed entries", where=path, found=packed[0], expected="a file written by torch.save"
        )
    return entries


def _refuse_other_names(path: Path, entries: list[zipfile.ZipInfo] | None) -> None:
    """Raises when a pickle uses a name of Python, torch or numpy that no checkpoint needs.

    torch's own allow-list holds more than that, for instance ``bytearray``, with which a short file fills the memory.
    """
    if entries is None:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = set(_GLOBAL.findall(content))
    else:
        pickles = [read_entry(path, entry) for entry in entries if entry.filename.endswith("data.pkl")]
        found = {name for pickle in pickles for name in _GLOBAL.findall(pickle)}
    for module, name in sorted(found):
        full = f"{module.decode()}.{name.decode()}"
        if full not in _NAMES and not _STORAGE.fullmatch(full):
            raise ValueError(f"Unsupported global: GLOBAL {full}")


@contextmanager
def _allowing_only(allowed: _AllowList) -> Iterator[None]:
    """Opens torch's own allow-list and these, but nothing that other code of the process has added to it."""
    with _allow_list_lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _resolve(value: Any, known: dict[int, Any]) -> Any:
    """The same with numpy objects in place of their records; what is shared is looked at once and stays shared."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, _Scalar | _Array | _Dtype):
        known[id(value)] = value.value()
    elif isinstance(value, dict):
        known[id(value)] = value
        # A dictionary of words has a hundred thousand entries, none of which is a record.
        for key, item in value.items():
            if type(item) not in _ATOMS:
                value[key] = _resolve(item, known)
    elif isinstance(value, list):
        known[id(value)] = value
        value[:] = [_resolve(item, known) for item in value]
    elif type(value) is tuple:
        known[id(value)] = tuple(_resolve(item, known) for item in value)
    else:
        return value
    return known[id(value)]


def _first_sentence(error: Exception) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    # torch's message advises to load the file without protection; that advice is not passed on.
    found = re.search(r"(Unsupported global: GLOBAL \S+|Trying to .*?\.(?=\s|$)|Unsupported operand \d+)", text)
    return found[1] if found else text.splitlines()[0]
