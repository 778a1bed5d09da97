"""Read the zip files that ``torch.save`` writes: uncompressed entries that do not overlap.

If the directory, local headers or names of a zip file contradict each other, different programs read different contents
from it. Such a file is refused.

Source: the ZIP format specification (APPNOTE), sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import mmap
import zlib
from struct import Struct
from typing import NamedTuple

_MOST_ENTRIES = 20_000
_LARGEST_DIRECTORY = 1 << 24
_END = Struct("<4s4H2IH")
_ZIP64_LOCATOR = Struct("<4sIQI")
_ZIP64_END = Struct("<4sQ2H2I4Q")
_DIRECTORY_ENTRY = Struct("<4s6H3I5H2I")
_LOCAL_HEADER = Struct("<4s5H3I2H")
_EXTRA_FIELD = Struct("<2H")
_SIZES_FOLLOW, _UTF8_NAME = 1 << 3, 1 << 11
_LARGE = 0xFFFFFFFF  # this value means that the real number is in the extra field
_CHUNK = 1 << 24


class Entry(NamedTuple):
    """Entry of a zip file: positions of its local header and its data, and the CRC-32 of the data."""

    name: str
    header: int
    begin: int
    end: int
    checksum: int


def read_directory(memory: mmap.mmap) -> dict[str, Entry]:
    """Return the entries of a zip file by name.

    Args:
        memory: The whole file.

    Raises:
        ValueError, struct.error: The file is cut short, or is not a zip file as ``torch.save`` writes it.
    """
    count, begin, end = _find_directory(memory)
    if count > _MOST_ENTRIES or end - begin > _LARGEST_DIRECTORY:
        raise ValueError(
            f"{count:,} entries; at most {_MOST_ENTRIES:,} are read, in a zip directory of at most "
            f"{_LARGEST_DIRECTORY:,} bytes"
        )
    entries, pos = [], begin
    for _ in range(count):
        entry, pos = _read_entry(memory, pos)
        entries.append(entry)
    if pos != end:
        raise ValueError("the zip directory does not have its stated size")
    entries.sort(key=lambda entry: entry.header)
    for entry, limit in zip(entries, [*(entry.header for entry in entries[1:]), begin], strict=False):
        if entry.end > limit:
            raise ValueError(f"entry {entry.name} overlaps with the next entry or the directory")
    if len({entry.name.casefold() for entry in entries}) < count:
        raise ValueError("two entries have the same name, or names that differ only in case")
    return {entry.name: entry for entry in entries}


def checksum(memory: mmap.mmap, entry: Entry) -> int:
    """Return the CRC-32 of an entry's bytes; the computation releases the interpreter lock."""
    crc = 0
    with memoryview(memory) as view:
        for start in range(entry.begin, entry.end, _CHUNK):
            crc = zlib.crc32(view[start : min(start + _CHUNK, entry.end)], crc)
    return crc


def _find_directory(memory: mmap.mmap) -> tuple[int, int, int]:
    """Find the zip directory, and return its number of entries, its start and its end."""
    end = len(memory) - _END.size
    if end < 0 or memory[end : end + 4] != b"PK\5\6":
        raise ValueError("no zip directory at the end, as in a file that is cut short")
    _, *disks, on_disk, count, size, begin, comment = _END.unpack_from(memory, end)
    stated = count, size, begin
    locator = end - _ZIP64_LOCATOR.size
    if locator >= 0 and memory[locator : locator + 4] == b"PK\6\7":
        _, disk, end, _ = _ZIP64_LOCATOR.unpack_from(memory, locator)
        magic, _, _, _, *more_disks, on_disk, count, size, begin = _ZIP64_END.unpack_from(memory, end)
        disks += [disk, *more_disks]
        both = zip(stated, (count, size, begin), (0xFFFF, _LARGE, _LARGE), strict=True)
        agree = all(small in (large, ones) for small, large, ones in both)
        if magic != b"PK\6\6" or end + _ZIP64_END.size != locator or not agree:
            raise ValueError("the zip directory is not where its end record says")
    if any(disks) or on_disk != count or comment or begin + size != end:
        raise ValueError("the zip directory is not where its end record says")
    return count, begin, end


def _read_entry(memory: mmap.mmap, pos: int) -> tuple[Entry, int]:
    """Return the entry at a position of the directory, and the position of the next entry."""
    magic, _, _, flags, method, *_, checksum, packed, size, n, m, k, _, _, _, header = _DIRECTORY_ENTRY.unpack_from(
        memory, pos
    )
    begin = pos + _DIRECTORY_ENTRY.size
    end = begin + n + m + k
    raw_name = memory[begin : begin + n]
    name = raw_name.decode("utf-8", "backslashreplace")
    if magic != b"PK\1\2":
        raise ValueError("the zip directory is damaged")
    if method:
        raise ValueError(f"entry {name} is compressed")
    if flags & ~(_SIZES_FOLLOW | _UTF8_NAME):
        raise ValueError(f"entry {name} has the flags {flags:#x}, which torch does not set")
    size, packed, header = _large_numbers([size, packed, header], memory[begin + n : begin + n + m])
    local_magic, _, local_flags, local_method, _, _, *local, n, m = _LOCAL_HEADER.unpack_from(memory, header)
    name_at = header + _LOCAL_HEADER.size
    # torch leaves the sizes in the local header at 0. Sizes above 4 GB are in the extra field of that header.
    stated = [checksum, min(packed, _LARGE), min(size, _LARGE)]
    agree = local == stated or local[1:] == [_LARGE] * 2 or (flags & _SIZES_FOLLOW and local == [0, 0, 0])
    same = (local_magic, local_flags, local_method) == (b"PK\3\4", flags, method)
    if not agree or not same or memory[name_at : name_at + n] != raw_name or packed != size:
        raise ValueError(f"entry {name} has different headers in the directory and before its data")
    at = name_at + n + m
    return Entry(name, header, at, at + size, checksum), end


def _large_numbers(numbers: list[int], extra: bytes) -> list[int]:
    """Return the numbers of a directory entry, taking those that exceed 32 bits from its extra field."""
    if _LARGE not in numbers:
        return numbers
    pos = 0
    while pos < len(extra):
        kind, size = _EXTRA_FIELD.unpack_from(extra, pos)
        pos += _EXTRA_FIELD.size
        if kind == 1:
            large = iter(Struct(f"<{size // 8}Q").unpack_from(extra, pos))
            return [next(large) if number == _LARGE else number for number in numbers]
        pos += size
    raise ValueError("an entry larger than 4 GB has no size in its extra field")
