"""Is a zip file that torch wrote still what torch wrote?

torch checks none of the checksums that it writes when it maps a file, and a flipped bit would pass for a weight.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of the extra field, behind 26 other bytes
_CHUNK = 1 << 24


def read_directory(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip file.

    Raises:
        BadZipFile: The file is cut short or is not a zip file.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def read_entry(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of one stored entry, whatever its checksum."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        begin, end = _extent(memory, entry)
        return memory[begin:end]


def damaged_entries(path: Path, entries: list[zipfile.ZipInfo]) -> list[str]:
    """Names of the entries whose bytes do not have the checksum that the file's directory gives them.

    Entries without a checksum (torch can be told to write none) pass. The work is done outside the interpreter lock,
    so that it costs no time beside a thread that unpickles.

    Args:
        path: The file; its entries are stored, not compressed.
        entries: Its directory.
    """
    damaged = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        for entry in entries:
            if not entry.CRC:
                continue
            begin, end = _extent(memory, entry)
            checksum = 0
            with memoryview(memory) as view:
                for start in range(begin, end, _CHUNK):
                    checksum = zlib.crc32(view[start : min(start + _CHUNK, end)], checksum)
            if checksum != entry.CRC:
                damaged.append(entry.filename)
    return damaged


def _extent(memory: mmap.mmap, entry: zipfile.ZipInfo) -> tuple[int, int]:
    name, extra = _LOCAL_HEADER.unpack_from(memory, entry.header_offset)
    begin: int = entry.header_offset + _LOCAL_HEADER.size + name + extra
    return begin, begin + entry.file_size
