"""Random texts of all kinds, and what must be equal on each; for the tests and ``scripts/fuzz_tokenizer.py``."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from tests.tokenizer.small import TEXT
from tests.tokenizer.texts import SNIPPETS
from xlm.tokenizer.tokenizer import XLMTokenizer

# Characters that rules of text take notice of, those that combine, join, turn or hide, and halves of pairs.
_MARKED = "".join(
    chr(code)
    for code in range(0x3100)
    if unicodedata.category(chr(code))[0] in "PSZCM" and unicodedata.category(chr(code)) != "Cn"
)
_RANGES = ((0x20, 0x7F), (0x80, 0x250), (0x250, 0x3000), (0x3000, 0xA000), (0xA000, 0x10000), (0x10000, 0x110000))
_LANGUAGES = (None, None, None, "en", "de", "fr", "it", "ro", "fi", "ko", "cs", "es", "ru", "hi", "xx")


class Texts:
    """An endless source of texts.

    Args:
        seed: The same seed gives the same texts.
        lines: Real lines to change; those of the small text if there are none.
    """

    def __init__(self, seed: int, lines: Sequence[str] = ()) -> None:
        self.random = random.Random(seed)
        self.lines = list(lines) or TEXT.split(". ")

    def text(self) -> str:
        kind = self.random.random()
        if kind < 0.5:
            return self._changed(self.random.choice(self.lines))
        if kind < 0.8:
            snippets = self.random.choices(SNIPPETS, k=self.random.randint(0, 15))
            return "".join(f" {snippet} " if self.random.random() < 0.4 else snippet for snippet in snippets)
        if kind < 0.999:
            return "".join(self._character() for _ in range(self.random.randint(0, 30)))
        return self.random.choice(SNIPPETS) * self.random.randint(1, 2000)

    def _character(self) -> str:
        if self.random.random() < 0.5:
            return self.random.choice(_MARKED if self.random.random() < 0.5 else " .,'\"()-aZ1é")
        first, last = self.random.choice(_RANGES)
        return chr(self.random.randrange(first, min(last, sys.maxunicode + 1)))

    def _changed(self, line: str) -> str:
        characters = list(line[:300])
        for _ in range(self.random.randint(0, 6)):
            place = self.random.randint(0, len(characters))
            kind = self.random.random()
            if kind < 0.35:
                characters.insert(place, self._character())
            elif kind < 0.6:
                characters[place:place] = self.random.choice(SNIPPETS)
            elif kind < 0.8:
                del characters[place : place + self.random.randint(1, 3)]
            else:
                characters[place : place + 1] = self._character()
        return "".join(characters)


def check(ours: XLMTokenizer, peer: Any, texts: Texts, *, cut: bool = True) -> str | None:
    """Compares everything on one more text; returns what differs, None if nothing does.

    Args:
        ours: This library's tokenizer.
        peer: That of transformers.
        texts: Where texts come from.
        cut: Whether to compare truncation too; that of 4.x leaves texts whole that it cannot cut enough.
    """
    text, lang = texts.text(), texts.random.choice(_LANGUAGES)
    if lang is not None:
        if ours.tokenize(text, lang=lang) != peer._tokenize(text, lang=lang):
            return f"tokenize({text!r}, lang={lang!r})"
        return None
    if ours.tokenize(text) != peer.tokenize(text):
        return f"tokenize({text!r})"
    # what one of the two ways learns the other then finds
    ids = ours.encode(text) if texts.random.random() < 0.5 else ours.encode_batch([text])[0]
    if ids != peer.encode(text):
        return f"encode({text!r})"
    skip = texts.random.random() < 0.5
    if ours.decode(ids, skip) != peer.decode(ids, skip_special_tokens=skip):
        return f"decode({ids!r}, {skip})"
    if cut and texts.random.random() < 0.2:
        options: dict[str, Any] = {
            "truncation": texts.random.choice([True, "only_first", "only_second"]),
            "max_length": texts.random.randint(3, 40),
        }
        other = texts.text()
        if ours.encode(text, other, **options) != peer.encode(text, other, **options):
            return f"encode({text!r}, {other!r}, **{options!r})"
    return None
