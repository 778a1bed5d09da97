"""The merges of byte-pair encoding, best first, with their two file formats.

transformers' ``merges.txt`` holds ``left right`` a line, fastBPE's codes ``left right count``; the pieces are written
alike in both (``</w>`` ends a word), so that the published ``codes_ende`` and ``merges.txt`` are the same merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xlm._atomic import write_text
from xlm.errors import VocabularyError
from xlm.tokenizer.text_files import at_line, read_lines

Merges = tuple[tuple[str, str], ...]


def read_merges(path: Path) -> Merges:
    """Returns the merges in a ``merges.txt``; a first line ``#version: …`` and a third column are left out.

    transformers drops a last line that does not end in a newline; here it counts, as it does in fastBPE.

    Raises:
        VocabularyError: The file is not that.
    """
    return _read(path, columns=(2, 3), expected="LEFT RIGHT")


def read_codes(path: Path) -> Merges:
    """Returns the merges in a codes file of fastBPE.

    Raises:
        VocabularyError: The file is not that.
    """
    return _read(path, columns=(3,), expected="LEFT RIGHT COUNT")


def write_merges(path: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Writes a ``merges.txt`` as transformers writes it.

    Raises:
        WriteError: The file could not be written.
    """
    write_text(path, "".join(f"{left} {right}\n" for left, right in merges))


def write_codes(path: Path, merges: Sequence[tuple[str, str]], counts: Sequence[int] | None = None) -> None:
    """Writes a codes file that fastBPE reads; unknown counts are written as 0.

    Raises:
        WriteError: The file could not be written.
    """
    rows = zip(merges, [0] * len(merges) if counts is None else counts, strict=True)
    write_text(path, "".join(f"{left} {right} {count}\n" for (left, right), count in rows))


def _read(path: Path, *, columns: tuple[int, ...], expected: str) -> Merges:
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 and line.startswith("#version:"):
            continue
        # Only ASCII spaces divide the columns: the published codes for 15 languages merge no-break spaces.
        fields = line.split(" ")
        if len(fields) not in columns or not all(fields):
            raise VocabularyError(
                "A line does not hold a merge",
                where=at_line(path, number),
                found=repr(line),
                expected=expected,
                remedy="use the codes or merges file of the model, not its vocabulary or text",
            )
        if len(fields) == 3 and not (fields[2].isascii() and fields[2].isdigit()):
            raise VocabularyError(
                "A count is not a whole number", where=at_line(path, number), found=repr(fields[2]), expected=expected
            )
        first = lines.setdefault((fields[0], fields[1]), number)
        if first != number:
            raise VocabularyError(
                "A merge stands twice in the file",
                where=at_line(path, number),
                found=repr(line),
                expected=f"each merge once (first: line {first})",
            )
    if not lines:
        raise VocabularyError("The file holds no merges", where=path, expected=expected)
    return tuple(lines)
