"""Random texts of all kinds, and what must be equal on each; for the tests and ``scripts/fuzz_tokenizer.py``."""

from __future__ import annotations

import dataclasses
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


def check_spans(tokenizer: XLMTokenizer, text: str, lang: str | None) -> None:
    """Asserts that the spans of a text are what they are defined to be, and the ids those without them."""
    encoding = tokenizer(text, lang=lang, return_offsets=True)
    pieces, spans, words = tokenizer.tokenize(text, lang), encoding["offsets"], encoding["word_ids"]
    assert encoding.input_ids == tokenizer.encode(text, lang=lang)
    assert len(spans) == len(words) == len(encoding.input_ids) == len(pieces) + 2
    assert (spans[0], spans[-1], words[0], words[-1]) == ((0, 0), (0, 0), None, None)
    spans, words = spans[1:-1], words[1:-1]
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    if pieces:  # where everything was dropped nothing is left to have a span
        assert {place for place, character in enumerate(text) if not character.isspace()} <= covered
    assert words == sorted(words)
    assert all(0 <= word < max(len(text.split()), 1) for word in words)


def plain_results(tokenizer: XLMTokenizer, text: str, lang: str | None) -> tuple[list[str], list[int]]:
    """Return the pieces and the ids, special tokens included, that the specification gives a text.

    Asserts that its spans are those of the tokenizer.
    """
    tokens = tokenizer.pipeline(text, lang)
    spans = [token.span for token in tokens]
    assert tokenizer(text, lang=lang, return_offsets=True)["offsets"] == [(0, 0), *spans, (0, 0)]
    ids = [token.id for token in tokens]
    return [token.piece for token in tokens], [tokenizer.bos_token_id, *ids, tokenizer.sep_token_id]


def check_itself(tokenizer: XLMTokenizer, texts: Texts) -> str | None:
    """Compare the fast path with the specification on some more texts; return what differs, None if nothing does."""
    lang = texts.random.choice(_LANGUAGES[3:] if tokenizer.preset == "original" else _LANGUAGES)
    # Many texts take another path than few.
    batch = [texts.text() for _ in range(texts.random.choice((1, 2, 3, 4, 300)))]
    rows = [tokenizer.tokenize(text, lang=lang) for text in batch]
    ids = [tokenizer.encode(text, lang=lang) for text in batch]
    if texts.random.random() < 0.002:
        twin = dataclasses.replace(tokenizer)  # which remembers nothing yet, and takes its time
        if twin.encode_batch(batch, lang=lang) != ids:
            return f"encode_batch({batch!r}, lang={lang!r}) on a new tokenizer"
    if tokenizer.encode_batch(batch, lang=lang) != ids or tokenizer.tokenize_batch(batch, lang=lang) != rows:
        return f"encode_batch or tokenize_batch({batch!r}, lang={lang!r})"
    try:
        check_spans(tokenizer, batch[0], lang)
    except AssertionError as error:
        return f"spans of {batch[0]!r}, lang={lang!r}: {error}"
    for text, row, row_ids in zip(batch[:20], rows[:20], ids[:20], strict=True):
        if (row, row_ids) != plain_results(tokenizer, text, lang):
            return f"tokenize or encode({text!r}, lang={lang!r}) and the specification"
    return None
