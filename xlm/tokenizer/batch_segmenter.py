"""Many texts at once: the chunks that are new in them are worked out together before the texts are put together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from xlm.tokenizer.folding import fold_all
from xlm.tokenizer.moses import Moses
from xlm.tokenizer.remembered import LONGEST, MOST, Memory
from xlm.tokenizer.segmenter import (
    DIVIDED_AT_THE_END,
    DIVIDED_AT_THE_START,
    END,
    OTHER,
    WINDOW,
    NeedsNeighboursError,
    Segmenter,
)

T = TypeVar("T")

_CHARACTERS = 1 << 21  # of texts whose new chunks are worked out together


class BatchSegmenter(Segmenter[T]):
    """A segmenter that also takes many texts at once.

    Args:
        rules: As for ``Segmenter``.
        fold_words: As for ``Segmenter``.
        of_word: As for ``Segmenter``.
        of_words: Returns the same as ``of_word`` for each of many words.
        memory: As for ``Segmenter``.
    """

    def __init__(
        self,
        rules: Moses,
        *,
        fold_words: bool,
        of_word: Callable[[str], Sequence[T]],
        of_words: Callable[[Sequence[str]], Iterable[Sequence[T]]],
        memory: Memory | None = None,
    ) -> None:
        super().__init__(rules, fold_words=fold_words, of_word=of_word, memory=memory)
        self._of_new_words = of_words
        inert = self._inert_body
        self._find_inert = re.compile(f"^{inert}$", re.MULTILINE).findall
        self._find_inert_and_sign = re.compile(f"^({inert})([{DIVIDED_AT_THE_END}])$", re.MULTILINE).findall
        self._find_sign_and_inert = re.compile(f"^([{DIVIDED_AT_THE_START}])({inert})$", re.MULTILINE).findall

    def of_texts(self, texts: Sequence[str]) -> Iterator[list[T]]:
        """Yields what is asked for of all pieces of each text."""
        some: list[str] = []
        characters = 0
        for text in texts:
            if len(text) > WINDOW:
                yield from self._of_some(some)
                some, characters = [], 0
                yield self(text)
                continue
            some.append(text)
            characters += len(text)
            if characters > _CHARACTERS:
                yield from self._of_some(some)
                some, characters = [], 0
        yield from self._of_some(some)

    def _of_some(self, texts: Sequence[str]) -> Iterator[list[T]]:
        chunks_of = [text.split(" ") for text in texts]
        last_of = [chunks.pop() for chunks in chunks_of]
        self._learn_ahead(set().union(*chunks_of), set(last_of))
        chunks_known, ends_known = self._chunks.__getitem__, self._ends.__getitem__
        for text, chunks, last in zip(texts, chunks_of, last_of, strict=True):
            try:
                yield [*chain.from_iterable(map(chunks_known, chunks)), *ends_known(last)]
            except NeedsNeighboursError:
                yield self._by_units(text, END, begins=True)

    def _learn_ahead(self, chunks: set[str], ends: set[str]) -> None:
        """Works out those of the chunks that are new and stand alone, and remembers them."""
        new, new_ends = self._new(chunks, self._chunks), self._new(ends, self._ends)
        if not self._memory.has_room(2 * (len(new) + len(new_ends))):  # as many words as chunks, at most, in real text
            self._memory.forget()
            new, new_ends = self._new(chunks, self._chunks), self._new(ends, self._ends)
        inert, divided = self._divided(new, OTHER)
        inert_ends, divided_ends = self._divided(new_ends, END)
        words = {*inert, *inert_ends, *chain.from_iterable(chain(divided.values(), divided_ends.values()))}
        distinct = list(words)
        folded = dict(zip(distinct, fold_all(distinct) if self._fold_words else distinct, strict=True))
        new = list({word for word in folded.values() if 0 < len(word) <= LONGEST}.difference(self._words))
        self._words.remember(new, self._of_new_words(new))
        known = self._words.__getitem__
        for memory, plain, others in ((self._chunks, inert, divided), (self._ends, inert_ends, divided_ends)):
            memory.remember(plain, map(known, map(folded.__getitem__, plain)))
            memory.remember(
                list(others),
                [
                    tuple(chain.from_iterable(map(known, filter(None, map(folded.__getitem__, words)))))
                    for words in others.values()
                ],
            )

    def _new(self, chunks: set[str], memory: dict[str, Sequence[T]]) -> list[str]:
        """Returns those of some chunks that are not remembered and may be simple, no more than can be remembered."""
        new = list(chunks.difference(memory))
        everything = " ".join(new)
        if "\n" in everything or "MULTI" in everything:
            new = [chunk for chunk in new if "\n" not in chunk and "MULTI" not in chunk]
        return [chunk for chunk in new if 0 < len(chunk) <= LONGEST][: MOST // 2]

    def _divided(self, chunks: Sequence[str], following: str) -> tuple[list[str], dict[str, Sequence[str]]]:
        """Returns those of some chunks that are one word, and the words of others that stand alone."""
        inert: list[str] = self._find_inert("\n".join(chunks))
        others = set(chunks).difference(inert)
        lines = "\n".join(others)
        divided: dict[str, Sequence[str]] = {
            first + second: (first, second)
            for first, second in chain(self._find_inert_and_sign(lines), self._find_sign_and_inert(lines))
        }
        units = []
        for chunk in others.difference(divided):
            if not self._starts_freely(chunk):
                continue
            if chunk[-1] == "." and self._inert(chunk, 0, len(chunk) - 1):
                if following == END:
                    divided[chunk] = self._unit_words(chunk, END)
            elif not chunk[-1].isspace() if following == END else chunk[-1] != "." and self._ends_freely(chunk):
                units.append(chunk)
        divided.update(zip(units, self._shapes.words_of_all(units, following), strict=True))
        return inert, divided
