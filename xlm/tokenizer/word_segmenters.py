"""Word segmentation of Chinese, Japanese and Thai, with the libraries that transformers uses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlm.errors import DependencyError, InputError, LanguageError
from xlm.tokenizer.alignment import AlignedText, Piece
from xlm.tokenizer.moses.tokenise import Moses

LANGUAGES = ("ja", "th", "zh")
"""The languages written without spaces between words, which Moses cannot divide."""


class WordSegmenter:
    """Divides a Chinese, Japanese or Thai text into words, as ``XLMTokenizer`` of transformers does.

    Args:
        rules: Moses' rules for the language; only their normalisation is used.

    Raises:
        LanguageError: The rules are those of the Perl scripts, which cannot divide these languages into words.
        DependencyError: The library for the language is not installed.
    """

    def __init__(self, rules: Moses) -> None:
        if rules.dialect == "perl":
            raise LanguageError(
                "this preset cannot divide the language into words",
                where="lang",
                found=rules.language,
                expected=f"a language other than {', '.join(LANGUAGES)}",
                remedy="open the tokenizer with preset='transformers'",
            )
        self._rules = rules
        self._language = rules.language
        self._library()  # if the library is missing, this raises before any text is read

    def _library(self) -> Any:
        if self._language == "ja":
            return _kytea()
        return _import("rjieba", "zh") if self._language == "zh" else _import("pythainlp.tokenize", "th")

    def words(self, text: str) -> list[str]:
        """Return the words of a text; a word can contain a space, or be just a space."""
        if self._language == "zh":
            return self._rules.normalize(" ".join(self._segments(text))).split()
        return self._segments(self._rules.normalize(text))

    def aligned_words(self, source: AlignedText) -> list[AlignedText]:
        """Return the words of an aligned text.

        Raises:
            DependencyError: The library returned a word that is not in the text.
        """
        if self._language == "zh":
            pieces: list[Piece] = []
            for segment, start in self._segments_with_starts(source.text):
                pieces += [(" ", start, start), (segment, start, start + len(segment))]
            return self._rules.normalize_aligned(source.from_pieces(pieces)).split()
        text = self._rules.normalize_aligned(source)
        return [text.slice(start, start + len(segment)) for segment, start in self._segments_with_starts(text.text)]

    def _segments(self, text: str) -> list[str]:
        library = self._library()
        function = {"zh": "cut", "th": "word_tokenize", "ja": "getWS"}[self._language]
        try:
            return [segment for segment in getattr(library, function)(text) if segment]
        except UnicodeEncodeError as error:
            raise InputError(
                "the word segmenter of this language rejects lone surrogates",
                where="text",
                found=ascii(text[error.start : error.end]),
                remedy="remove it from the text",
            ) from error

    def _segments_with_starts(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield the segments of a text, each with the index where it starts."""
        end = 0
        for segment in self._segments(text):
            start = text.find(segment, end)
            if start < 0:
                raise DependencyError(
                    "the word segmenter returned a word that is not in the text",
                    where=f"lang={self._language!r}",
                    found=repr(segment),
                    expected=f"a part of {text[end : end + 40]!r}",
                    remedy="encode this text without return_offsets",
                )
            yield segment, start
            end = start + len(segment)


def _import(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            "the word segmenter of this language is not installed",
            where=f"lang={extra!r}",
            found=f"no module {name}",
            remedy=f"pip install 'xlm[{extra}]'",
        ) from error


@lru_cache(maxsize=1)
def _kytea() -> Any:
    library = _import("Mykytea", "ja")
    model = Path.home() / "local/share/kytea/model.bin"  # transformers uses this path too
    if not model.is_file():
        raise DependencyError(
            "the model of KyTea is not installed",
            where="lang='ja'",
            found=f"no file {model}",
            remedy="build KyTea (https://github.com/neubig/kytea) with ./configure --prefix=$HOME/local",
        )
    return library.Mykytea(f"-model {model}")
