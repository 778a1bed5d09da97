"""Read files of ``torch.save``, in its zip format and in the legacy format from before 2020.

No memory is allocated for what a file only claims: the pickle is read first, then its storages are compared with the
bytes in the file, and only then are tensors made, as views into the mapped file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from xlm._io.files import open_regular, unreadable
from xlm.checkpoint.pickle_reader import LARGEST_PICKLE, PickledObject, StorageClaim, read_pickle
from xlm.checkpoint.zip_reader import checksum, read_directory
from xlm.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
# The first bytes of a file of torch.save: a zip file, or a pickle of protocol 2 or higher, or of protocol 0 or 1.
_ZIPPED, _PICKLED, _PICKLED_AS_TEXT = b"PK", b"\x80", b"L1"
_FEW_STEPS = 1000
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


def load_pickle(path: Path) -> Any:
    """Load the tensors and plain data of a ``torch.save`` file, without running any code in it.

    Args:
        path: A file in torch's zip format, or in the legacy format from before 2020.

    Returns:
        The saved object, on the CPU: tensors, numbers, text, numpy scalars and arrays, and lists, tuples and dicts of
        these. Tensors are views into the mapped file, read on access; unaligned tensors are copied.

    Raises:
        CheckpointError: The file is missing, empty, cut short, damaged, or of another format, or it refers to anything
            but plain data.
    """
    memory = _map(path)
    try:
        return _read_zip(memory) if memory[: len(_ZIP_MAGIC)] == _ZIP_MAGIC else _read_legacy(memory)
    except Exception as error:
        # A damaged or hostile file can cause any exception in the reader; the user gets one class of error.
        raise CheckpointError(
            "the file cannot be read as a checkpoint",
            where=path,
            found=str(error) if type(error) is ValueError else "a file that is cut short or damaged",
            expected="a complete file of torch.save with tensors and plain data",
            remedy="fetch it again if it is damaged; a file that asks for code to be run is always refused",
        ) from error


def check_first_bytes(path: Path) -> None:
    """Refuse a file that ``torch.save`` cannot have written.

    Raises:
        CheckpointError: The file cannot be read, is empty, or does not begin with bytes that ``torch.save`` writes.
    """
    with _open(path) as file:
        head = file.read(len(_ZIPPED))
    if not head:
        raise CheckpointError("the file is empty", where=path, expected="a checkpoint", remedy="fetch it again")
    if not head.startswith((_ZIPPED, _PICKLED, _PICKLED_AS_TEXT)):
        raise CheckpointError(
            "the file is not a checkpoint",
            where=path,
            found=f"a file that begins with {head!r}",
            expected="a .pth of the original, or a directory with config.json and weights",
            remedy="check the path, and the order of the arguments; fetch the file again if it is damaged",
        )


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with open_regular(path, error=CheckpointError, expected="a checkpoint") as file:
        try:
            yield file
        except OSError as error:
            raise unreadable(path, error, error=CheckpointError, expected="a checkpoint") from error


def _map(path: Path) -> mmap.mmap:
    check_first_bytes(path)
    with _open(path) as file:
        # The map is private and writable, because torch requires writable memory; the file itself never changes.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _read_zip(memory: mmap.mmap) -> Any:
    entries = read_directory(memory)
    # torch can be configured to write no checksums; each checksum field is then 0.
    summed = list(entries.values()) if any(entry.checksum for entry in entries.values()) else []
    # The checksums are not computed while the pickle is read: on a busy machine, the threads would wait for each other.
    with ThreadPoolExecutor(max_workers=2) as pool:
        sums = pool.map(checksum, [memory] * len(summed), summed)
        damaged = [entry.name for entry, actual in zip(summed, sums, strict=True) if actual != entry.checksum]
    if damaged:
        raise ValueError(f"damaged: the checksum of {', '.join(damaged[:4])} is wrong")
    pickles = [name for name in entries if name.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} entries named data.pkl instead of one")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and memory[order.begin : order.end] != b"little":
        raise ValueError("a byte order other than little-endian")
    entry = entries[pickles[0]]
    if entry.end - entry.begin > LARGEST_PICKLE:
        raise ValueError(f"a pickle of {entry.end - entry.begin:,} bytes; at most {LARGEST_PICKLE:,} are read")
    pickled = read_pickle(memory[entry.begin : entry.end])
    begins = {}
    for key, claim in pickled.storages.items():
        record = entries.get(f"{folder}data/{key}")
        size = claim.numel * claim.dtype.itemsize
        if record is None or record.end - record.begin != size:
            stored = "no such entry" if record is None else f"an entry of {record.end - record.begin:,} bytes"
            raise ValueError(f"storage {key:.20} of {size:,} bytes; the file has {stored}")
        begins[key] = record.begin
    return _fill(pickled, memory, begins)


def _read_legacy(memory: mmap.mmap) -> Any:
    head = memory[:LARGEST_PICKLE]
    magic = read_pickle(head, most_steps=_FEW_STEPS)
    version = read_pickle(head, magic.end, most_steps=_FEW_STEPS)
    if magic.value != _LEGACY_MAGIC or version.value != _LEGACY_VERSION:
        raise ValueError("no magic number of torch.save at the beginning")
    system = read_pickle(head, version.end, most_steps=_FEW_STEPS)
    pickled = read_pickle(head, system.end)
    keys = read_pickle(head, pickled.end, most_steps=_FEW_STEPS + 3 * len(pickled.storages))
    texts = type(keys.value) is list and all(type(key) is str for key in keys.value)
    if not texts or len(keys.value) != len(pickled.storages) or set(keys.value) != set(pickled.storages):
        raise ValueError("a list of storages that does not match those of the tensors")
    begins, pos = {}, keys.end
    for key in keys.value:
        claim = pickled.storages[key]
        if int.from_bytes(memory[pos : pos + 8], "little") != claim.numel:
            raise ValueError(f"storage {key:.20} does not have the {claim.numel:,} values that its tensors need")
        begins[key] = pos + 8
        pos += 8 + claim.numel * claim.dtype.itemsize
    if pos != len(memory):
        raise ValueError(f"a file of {len(memory):,} bytes instead of the {pos:,} that its storages need")
    return _fill(pickled, memory, begins)


def _fill(pickled: PickledObject, memory: mmap.mmap, begins: dict[str, int]) -> Any:
    """Set the tensors of a pickled object to their views of the mapped file, and return the object."""
    storages = {key: _storage(memory, begins[key], claim) for key, claim in pickled.storages.items()}
    for view in pickled.tensors:
        view.tensor.set_(storages[view.storage.key], view.offset, view.shape, view.stride)
    return pickled.value


def _storage(memory: mmap.mmap, begin: int, claim: StorageClaim) -> torch.UntypedStorage:
    if not claim.numel:
        return torch.empty(0).untyped_storage()
    size = claim.dtype.itemsize
    numbers = torch.frombuffer(memory, dtype=torch.uint8, count=claim.numel * size, offset=begin)
    return (numbers if begin % size == 0 else numbers.clone()).untyped_storage()
