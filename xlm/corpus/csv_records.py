"""Lines of tables, whatever ends them, and CSV records, where a stray quote costs its own line and no other."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from io import StringIO
from typing import TextIO

TOO_LONG = "the row is longer than {:,} bytes"
_LOOK_AHEAD = 1 << 20


def table_lines(file: TextIO, *, longest: int) -> Iterator[bytes]:
    r"""Yields the lines of a table with their ends.

    The first line ends at a line feed or a carriage return, whichever comes first. Where it ends at a carriage return
    alone, both end the lines of this file. Elsewhere only line feeds do, with or without a carriage return in front: a
    carriage return inside a line is most often part of a text.

    Args:
        file: Decoded as Latin-1, so that a character is a byte, and opened with ``newline=""``.
        longest: Most bytes of a line without its end; a longer one comes as empty bytes, which no line is.
    """
    ends: tuple[str, ...] = ("\n", "\r")
    first = True
    while (line := _line(file, ends, longest)) is not None:
        if first and not line.endswith("\r"):
            ends = ("\n",)
        first = False
        yield line.encode("latin-1")


def _line(file: TextIO, ends: tuple[str, ...], longest: int) -> str | None:
    whole = StringIO()  # a line may be many parts: as many as it has carriage returns
    while part := file.readline(longest + len("x\r\n")):
        if whole.tell() <= longest:
            whole.write(part)
        if part.endswith(ends):
            break
    line = whole.getvalue()
    if not line:
        return None
    return line if len(line.rstrip("\r\n")) <= longest else ""


def csv_records(lines: Iterator[bytes], *, longest: int) -> Iterator[list[str] | str]:
    r"""Yields the cells of each record, or what is wrong with a line that is none.

    A quoted cell can hold line ends, but no more than about a megabyte behind the line that it begins in. Where it is
    not closed by then, or is followed by anything but a comma or a line end, the line that it begins in is wrong and
    those behind it are read again, as records of their own. Bytes that are not UTF-8 come as half surrogates.

    Args:
        lines: From ``table_lines``; those that were too long are records of their own, and wrong.
        longest: Most bytes of a line.
    """
    # The module's own limit is of the process, and 128 KiB, which real texts exceed.
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    source = _Lines(lines)
    reader = csv.reader(source, strict=True)
    while (line := source.next_line()) is not None:
        if not line:
            source.drop()
            yield TOO_LONG.format(longest)
            continue
        try:
            record = next(reader)
        except csv.Error as error:
            source.take_back()
            reader = csv.reader(source, strict=True)
            # What the module calls an unexpected end is where we stopped looking.
            yield f"not CSV: {'a quote is not closed' if 'unexpected end' in str(error) else error}"
        else:
            source.taken.clear()
            yield record


class _Lines:
    """The lines of one record at a time, kept until it is known to be one.

    Attributes:
        taken: The lines of the record so far.
    """

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._waiting: deque[bytes] = deque()
        self.taken: list[bytes] = []
        self._further = 0  # bytes of the record behind its first line

    def next_line(self) -> bytes | None:
        """The line that comes next, which it does not take; ``None`` at the end."""
        if not self._waiting:
            line = next(self._lines, None)
            if line is None:
                return None
            self._waiting.append(line)
        return self._waiting[0]

    def drop(self) -> None:
        """Leaves the next line out."""
        self._waiting.popleft()

    def take_back(self) -> None:
        """Lets all lines of the record but its first come again."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        self.taken.clear()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.next_line()
        if line is None:
            raise StopIteration
        if not self.taken:
            self._further = 0
        else:
            self._further += len(line)
            if self._further > _LOOK_AHEAD or not line:
                raise StopIteration  # which the reader takes for a quote that is never closed
        self.taken.append(self._waiting.popleft())
        return line.decode("utf-8", "surrogateescape")
