"""Words of the languages that are written without spaces, by the libraries that transformers asks for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlm.errors import DependencyError, InputError
from xlm.tokenizer.moses import Moses, split_at_spaces
from xlm.tokenizer.rules import AlignedText, Piece

LANGUAGES = ("ja", "th", "zh")
"""Languages that Moses cannot divide into words."""


class Divider:
    """Divides a text of Chinese, Japanese or Thai into words as ``XLMTokenizer`` of transformers does.

    Args:
        rules: Moses' rules for the language, of which only the normalisation is used.
    """

    def __init__(self, rules: Moses) -> None:
        self._rules = rules
        self._language = rules.language
        self._library()  # so that a missing library is found before any text is read

    def _library(self) -> Any:
        if self._language == "ja":
            return _kytea()
        return _import("rjieba", "zh") if self._language == "zh" else _import("pythainlp.tokenize", "th")

    def words(self, text: str) -> list[str]:
        """Returns the words of a text; spaces may be among them, and stand in them."""
        if self._language == "zh":
            return self._rules.normalize(" ".join(self._segments(text))).split()
        return self._segments(self._rules.normalize(text))

    def aligned_words(self, source: AlignedText) -> list[AlignedText]:
        """Returns the words of a text with the spans of raw text that their characters came from.

        Raises:
            DependencyError: The library returned something that does not stand in the text.
        """
        if self._language == "zh":
            pieces: list[Piece] = []
            for segment, start in self._placed_segments(source.text):
                pieces += [(" ", start, start), (segment, start, start + len(segment))]
            return split_at_spaces(self._rules.normalize_aligned(source.from_pieces(pieces)))
        text = self._rules.normalize_aligned(source)
        return [
            AlignedText(segment, text.spans[start : start + len(segment)])
            for segment, start in self._placed_segments(text.text)
        ]

    def _segments(self, text: str) -> list[str]:
        library = self._library()
        divide = {"zh": "cut", "th": "word_tokenize", "ja": "getWS"}[self._language]
        try:
            return [segment for segment in getattr(library, divide)(text) if segment]
        except UnicodeEncodeError as error:
            raise InputError(
                "The library that divides this language into words takes no half of a surrogate pair",
                where="text",
                found=ascii(text[error.start : error.end]),
                remedy="take it out of the text",
            ) from error

    def _placed_segments(self, text: str) -> Iterator[tuple[str, int]]:
        """Yields the segments that the library makes of a text, each with its place: they stand there in order."""
        place = 0
        for segment in self._segments(text):
            found = text.find(segment, place)
            if found < 0:
                raise DependencyError(
                    "The library that divides this language into words returned one that is not in the text",
                    where=f"lang={self._language!r}",
                    found=repr(segment),
                    expected=f"a part of {text[place : place + 40]!r}",
                    remedy="ask for no spans in this text",
                )
            yield segment, found
            place = found + len(segment)


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            "The library that divides this language into words is not installed",
            where=f"lang={extra!r}",
            found=f"no module {name}",
            remedy=f"pip install 'xlm[{extra}]'",
        ) from error


@lru_cache(maxsize=1)
def _kytea() -> Any:
    library = _import("Mykytea", "ja")
    model = Path.home() / "local/share/kytea/model.bin"  # where transformers looks for it
    if not model.is_file():
        raise DependencyError(
            "KyTea's model is not installed",
            where="lang='ja'",
            found=f"no file {model}",
            remedy="build KyTea (https://github.com/neubig/kytea) with ./configure --prefix=$HOME/local",
        )
    return library.Mykytea(f"-model {model}")
