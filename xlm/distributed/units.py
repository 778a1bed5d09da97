"""Units of work: windows of one file that follow each other, whose results become one file of output.

A window holds the rows that the local command would score together, counted from the beginning of the file, so that
the digits are the same. A unit is what one worker takes at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xlm.corpus.read_ahead import row_identity, windows
from xlm.corpus.rows import Corpus, Row

_MOST_CHARACTERS = 1 << 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Some windows of a file.

    Attributes:
        file: Number of the file, from 0.
        index: Number of the unit in its file, from 0.
        windows: Lists of rows; none for a file without rows.
        last: Whether the file ends with it.
        damaged: Whether the file could not be read further, so that it is to be read again.
        warnings: What was left out of the file; at its end.
    """

    file: int
    index: int
    windows: tuple[tuple[Row, ...], ...]
    last: bool = False
    damaged: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies the rows and the borders of windows, in hexadecimal."""
        seen = hashlib.blake2b(digest_size=16)
        for window in self.windows:
            seen.update(b"%d\n" % len(window))
            for row in window:
                seen.update(row_identity(row))
        return seen.hexdigest()

    def to_bytes(self) -> bytes:
        """The unit in the form that workers are sent."""
        named = next((window[0].file for window in self.windows), "")
        rows = [[[row.number, row.text, row.problem] for row in window] for window in self.windows]
        # Escapes would take twice the room and more, and readers are on machines with little of it.
        whole = [self.file, self.index, self.last, self.damaged, self.warnings, named, rows]
        return json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def from_bytes(cls, data: bytes) -> Unit:
        """The unit that ``to_bytes`` was called on."""
        file, index, last, damaged, warnings, named, rows = json.loads(data)
        found = tuple(
            tuple(Row(file=named, number=number, text=text, problem=problem) for number, text, problem in window)
            for window in rows
        )
        return cls(file=file, index=index, windows=found, last=last, damaged=damaged, warnings=tuple(warnings))


def units_of(corpus: Corpus, *, file: int, read_at_once: int, windows_per_unit: int) -> Iterator[Unit]:
    """The units of a file, in order, read as they are taken; at least one.

    Args:
        corpus: The rows of one file.
        file: Its number.
        read_at_once: Most rows of a window.
        windows_per_unit: Most windows of a unit, which is also full at some 30 million characters.
    """
    index = 0
    # A file's last unit is marked, so each waits for the next one.
    waiting: tuple[tuple[Row, ...], ...] = ()
    for group in _grouped(windows(corpus, read_at_once=read_at_once), windows_per_unit):
        if waiting:
            yield Unit(file=file, index=index, windows=waiting)
            index += 1
        waiting = group
    damaged = bool(corpus.damaged)
    yield Unit(file=file, index=index, windows=waiting, last=True, damaged=damaged, warnings=tuple(corpus.warnings))


def _grouped(found: Iterable[list[Row]], most: int) -> Iterator[tuple[tuple[Row, ...], ...]]:
    group: list[tuple[Row, ...]] = []
    characters = 0
    for window in found:
        group.append(tuple(window))
        characters += sum(len(row.text or "") for row in window)
        if len(group) == most or characters >= _MOST_CHARACTERS:
            yield tuple(group)
            group, characters = [], 0
    if group:
        yield tuple(group)
