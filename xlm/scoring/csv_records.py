"""CSV records out of lines, where a stray quote costs the line that it stands in and no other."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

_LOOK_AHEAD = 1 << 20


def csv_records(lines: Iterator[bytes], *, longest: int) -> Iterator[list[str] | str]:
    r"""Yields the cells of each record, or what is wrong with a line that is none.

    A quoted cell can hold line ends, but no more than about a megabyte behind the line that it begins in. Where it is
    not closed by then, or is followed by anything but a comma or a line end, the line that it begins in is wrong and
    those behind it are read again, as records of their own. Bytes that are not UTF-8 come as half surrogates.

    Args:
        lines: Without their ``\n``.
        longest: Most bytes of a line; longer ones are records of their own, and wrong.
    """
    # The module's own limit is of the process, and 128 KiB, which real texts exceed.
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    source = _Lines(lines, longest=longest)
    reader = csv.reader(source, strict=True)
    while (line := source.next_line()) is not None:
        if len(line) > longest:
            source.drop()
            yield f"the row is longer than {longest:,} bytes"
            continue
        try:
            record = next(reader)
        except csv.Error as error:
            source.take_back()
            reader = csv.reader(source, strict=True)
            yield f"not CSV: {error}"
        else:
            source.taken.clear()
            yield record


class _Lines:
    """The lines of one record at a time, kept until it is known to be one.

    Attributes:
        taken: The lines of the record so far.
    """

    def __init__(self, lines: Iterator[bytes], *, longest: int) -> None:
        self._lines, self._longest = lines, longest
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
            if self._further > _LOOK_AHEAD or len(line) > self._longest:
                raise StopIteration  # which the reader takes for a quote that is never closed
        self.taken.append(self._waiting.popleft())
        return line.decode("utf-8", "surrogateescape") + "\n"
