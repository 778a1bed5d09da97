"""Reading the small text files of a model, with errors that name the file and the line."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from xlm._io.arguments import shown
from xlm._io.files import read_regular
from xlm.errors import VocabularyError

AGAIN = "fetch the file again, or write it again from its source"
"""The remedy for a damaged file."""

_MOST_SHOWN = 100  # maximum number of characters of a value in an error message
_MOST_DIGITS = 18  # maximum number of digits of a count: enough for any corpus, and less than 64 bits


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        VocabularyError: The file is not a regular file, cannot be read, is too large, is empty, is not UTF-8, or begins
            with a byte order mark.
    """
    data = read_regular(path, error=VocabularyError)
    if data.startswith(codecs.BOM_UTF8):
        raise VocabularyError(
            "the file begins with a byte order mark",
            where=at_line(path, 1),
            found="EF BB BF",
            expected="UTF-8 text without a byte order mark",
            remedy="save the file as UTF-8 without BOM",
        )
    if not data:
        raise VocabularyError("the file is empty", where=path, found="0 bytes", remedy=AGAIN)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VocabularyError(
            "not UTF-8 text",
            where=at_line(path, line),
            found=f"byte 0x{data[error.start]:02x} at offset {error.start}",
            remedy="convert the file to UTF-8 (iconv), or fetch it again if it is compressed or damaged",
        ) from error


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a UTF-8 file, split at ``\n`` only, since a word may hold any other line separator.

    A ``\r`` before the ``\n`` is dropped: git on Windows adds it, and no word ends in ``\r``.

    Raises:
        VocabularyError: As for ``read_text``.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:
        del lines[-1]  # the empty text after the last newline is not a line
    return [line.removesuffix("\r") for line in lines]


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        VocabularyError: As for ``read_text``; or the file does not hold a JSON object, or repeats a key.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            times = Counter(key for key, _ in pairs)
            twice = next(key for key in result if times[key] > 1)
            where = place_of_key(path, twice, occurrence=1)
            raise VocabularyError(
                "a key occurs twice", where=where, found=shown(twice), expected="each key once", remedy=AGAIN
            )
        return result

    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except VocabularyError:
        raise
    except json.JSONDecodeError as error:
        raise VocabularyError(
            "not JSON",
            where=at_line(path, error.lineno),
            found=f"{error.msg}, at column {error.colno}",
            expected="complete JSON",
            remedy=AGAIN,
        ) from error
    except (ValueError, RecursionError) as error:
        # json raises ValueError for an integer with more digits than Python converts.
        found = "too deeply nested" if isinstance(error, RecursionError) else "a number with thousands of digits"
        raise VocabularyError(
            "unexpected JSON", where=path, found=found, expected="a JSON object", remedy=AGAIN
        ) from error
    if not isinstance(value, dict):
        raise VocabularyError("not a JSON object", where=path, found=type(value).__name__, expected="{…}", remedy=AGAIN)
    return value


def count_of(text: str, path: Path, line: int, *, remedy: str) -> int:
    """Return the count that a column of a line holds.

    Args:
        text: The text of the column.
        path: The path of the file, for the error message.
        line: The number of the line, counted from 1, for the error message.
        remedy: The remedy in the error message.

    Raises:
        VocabularyError: The text is not a whole number, or has too many digits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise VocabularyError(
            "not a count",
            where=at_line(path, line),
            found=shown(text),
            expected=f"at most {_MOST_DIGITS} digits",
            remedy=remedy,
        )
    return int(text)


def shortened(value: object) -> str:
    """Return a value as text for an error message, cut if it is long."""
    text = str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"


def at_line(path: Path, line: int) -> str:
    """Return a path and a line number, counted from 1, as text for an error message."""
    return f"{path}, line {line}"


def place_of_key(path: Path, key: str, *, occurrence: int = 0) -> str:
    """Return the path and line of a key in a JSON file, for an error message; only the path if the key is not found.

    Args:
        path: The path of the file.
        key: The key.
        occurrence: Which occurrence of the key to return, counted from 0.
    """
    text = read_text(path)
    spellings = {json.dumps(key, ensure_ascii=ensure_ascii) for ensure_ascii in (True, False)}
    pattern = rf"(?:{'|'.join(map(re.escape, sorted(spellings)))})\s*:"
    starts = [match.start() for match in re.finditer(pattern, text)]
    if occurrence >= len(starts):
        return str(path)  # the file may spell the key with escapes that json.dumps does not write
    return at_line(path, text.count("\n", 0, starts[occurrence]) + 1)
