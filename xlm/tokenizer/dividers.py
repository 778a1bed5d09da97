"""Words of the languages that are written without spaces, by the libraries that transformers asks for them."""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from xlm.errors import DependencyError
from xlm.tokenizer.moses import Moses

LANGUAGES = ("ja", "th", "zh")
"""Languages that Moses cannot divide into words."""


class Divider:
    """Divides a text of Chinese, Japanese or Thai into words as ``XLMTokenizer`` of transformers does.

    Args:
        rules: Moses' rules for the language, of which only the normalisation is used.
    """

    def __init__(self, rules: Moses) -> None:
        self._normalize = rules.normalize
        self._language = rules.language
        self._library()  # so that a missing library is found before any text is read

    def _library(self) -> Any:
        if self._language == "ja":
            return _kytea()
        return _import("rjieba", "zh") if self._language == "zh" else _import("pythainlp.tokenize", "th")

    def words(self, text: str) -> list[str]:
        """Returns the words of a text; empty ones and spaces may be among them."""
        if self._language == "zh":
            return self._normalize(" ".join(self._library().cut(text))).split()
        text = self._normalize(text)
        library = self._library()
        words = library.word_tokenize(text) if self._language == "th" else library.getWS(text)
        return [word for word in words if word]


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
