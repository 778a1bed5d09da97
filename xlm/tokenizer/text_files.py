"""Small text files from outside, read with errors that name the file and the line."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from xlm._arguments import shown
from xlm._io.files import read_regular
from xlm.errors import VocabularyError

AGAIN = "fetch the file again, or write it again from its source"
"""What to do about a file that is damaged."""

_SHOWN = 100
_LONGEST_COUNT = 18  # digits: more than any corpus has words, and less than 64 bits


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file.

    Raises:
        VocabularyError: The file is not regular, unreadable, too large, empty, not UTF-8, or has a byte order mark.
    """
    data = read_regular(path, error=VocabularyError)
    if data.startswith(codecs.BOM_UTF8):
        raise VocabularyError(
            "The file begins with a byte order mark",
            where=at_line(path, 1),
            found="EF BB BF",
            expected="UTF-8 text without a mark, which would be part of the first word",
            remedy="save the file as UTF-8 without BOM",
        )
    if not data:
        raise VocabularyError("The file is empty", where=path, found="0 bytes", remedy=AGAIN)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VocabularyError(
            "The file is not UTF-8 text",
            where=at_line(path, line),
            found=f"byte 0x{data[error.start]:02x} at offset {error.start}",
            remedy="convert the file to UTF-8 (iconv), or fetch it again if it is compressed or damaged",
        ) from error


def read_lines(path: Path) -> list[str]:
    r"""Returns the lines of a UTF-8 file, split at ``\n`` only, since a word may hold any other line separator.

    A ``\r`` before the ``\n`` is dropped: no word of these files ends in one, but git on Windows adds them.

    Raises:
        VocabularyError: As for ``read_text``.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:
        del lines[-1]  # what follows the last line end is not a line
    return [line.removesuffix("\r") for line in lines]


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        VocabularyError: As for ``read_text``; or not JSON, not an object, or a key that stands there twice.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            times = Counter(key for key, _ in pairs)
            twice = next(key for key in result if times[key] > 1)
            where = place_of_key(path, twice, occurrence=1)
            raise VocabularyError(
                "A key stands twice in the file",
                where=where,
                found=shown(twice),
                expected="each key once",
                remedy=AGAIN,
            )
        return result

    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except VocabularyError:
        raise
    except json.JSONDecodeError as error:
        raise VocabularyError(
            "The file is not JSON",
            where=at_line(path, error.lineno),
            found=f"{error.msg}, at column {error.colno}",
            expected="JSON, whole",
            remedy=AGAIN,
        ) from error
    except (ValueError, RecursionError) as error:
        # a whole number of more digits than Python reads
        found = "endless nesting" if isinstance(error, RecursionError) else "a number of thousands of digits"
        raise VocabularyError(
            "The file is not JSON of this kind", where=path, found=found, expected="an object of names", remedy=AGAIN
        ) from error
    if not isinstance(value, dict):
        raise VocabularyError(
            "The file does not hold a JSON object",
            where=path,
            found=type(value).__name__,
            expected="{…}",
            remedy=AGAIN,
        )
    return value


def count_of(text: str, *, where: str, remedy: str) -> int:
    """Returns a whole number as these files hold them.

    Args:
        text: Its digits.
        where: The place that errors name.
        remedy: What to do when it is none.

    Raises:
        VocabularyError: It is none, or has too many digits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT):
        raise VocabularyError(
            "A count is not a whole number",
            where=where,
            found=shown(text),
            expected=f"at most {_LONGEST_COUNT} digits",
            remedy=remedy,
        )
    return int(text)


def shortened(value: object) -> str:
    """Returns a value from a file as errors name it: its beginning, where it is long."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def at_line(path: Path, line: int) -> str:
    """Returns the place of a line (counted from 1) in a file, as errors name it."""
    return f"{path}, line {line}"


def place_of_key(path: Path, key: str, *, occurrence: int = 0) -> str:
    """Returns the place of a key in a JSON file, as errors name it; only the file's where its line cannot be told.

    Args:
        path: The file.
        key: Any key.
        occurrence: Which of several, from 0.
    """
    text = read_text(path)
    written = {json.dumps(key, ensure_ascii=ensure_ascii) for ensure_ascii in (True, False)}
    pattern = rf"(?:{'|'.join(map(re.escape, sorted(written)))})\s*:"
    starts = [match.start() for match in re.finditer(pattern, text)]
    if occurrence >= len(starts):
        return str(path)  # written with escapes that nobody needs
    return at_line(path, text.count("\n", 0, starts[occurrence]) + 1)
