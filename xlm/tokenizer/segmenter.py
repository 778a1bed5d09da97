"""The fast path: each distinct chunk of text is worked out once and remembered.

A chunk is what stands between two spaces. Most chunks come out the same whatever their neighbours are; where that is
certain, the result of a text is that of its chunks, one after the other. Three things can reach across a space:

- Rules that look at punctuation at the edge of a chunk (``) .``, ``5 %``, an apostrophe beside another). So a chunk
  stands alone only if the one before ends, and it begins, with a character of which no rule takes notice across a
  space. A row of chunks that do not is one unit, worked out together.
- A full stop at the end of a unit, which stays or goes by the character that follows: lower case, digit, other.
- The end of the text, which a last unit that does not end in a letter or digit can see.

A unit is worked out by the rules themselves, between two neutral words in place of what stands around it, so that
nothing is said twice here. The units of letters, digits and hyphens alone, on which no rule acts, and those with one
sign at an end, on which few do, take a short cut. The tests compare all this with the rules applied to whole texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

from xlm.tokenizer.folding import fold
from xlm.tokenizer.moses import DIGITS, Moses
from xlm.tokenizer.remembered import Memory, Remembered
from xlm.tokenizer.shapes import Shapes

T = TypeVar("T")

WINDOW = 1 << 16  # characters that are divided into chunks at once, so that a long text takes little memory

# Signs that no rule looks at across a space: at the beginning, where no rule looks left of them, and at the end,
# where none looks right of them but to see whether the text goes on.
_FREE_STARTS = frozenset('"„“”([{$€£#@&*+=/-–_~<|')
_FREE_ENDS = frozenset("\"„“”)]},;:!?$€£%#@&*+=/-–_~|>'’`")
DIVIDED_AT_THE_END = ",;:!?"  # what every rule set divides from letters and digits before it
DIVIDED_AT_THE_START = '"('

# What follows a unit, as the rules can tell: the end of the text, a lower-case letter, a digit, something else.
END, LOWER, DIGIT, OTHER = "$", "x", "1", "X"


class NeedsNeighboursError(Exception):
    """The result of a chunk depends on what stands around it."""


class Segmenter(Generic[T]):
    """Divides texts into pieces of words, and gives for each piece what is asked for: itself, or its id.

    Args:
        rules: That divide a text into words.
        fold_words: Whether the words are put into lower case without accents.
        of_word: Returns what is asked for of one word.
        memory: Counts what is remembered; one of its own if it is not given.
    """

    def __init__(
        self,
        rules: Moses,
        *,
        fold_words: bool,
        of_word: Callable[[str], Sequence[T]],
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory = memory or Memory()
        self._rules = rules
        self._fold_words = fold_words
        self._lower_first = rules.classes.lower_first.match
        self._alnum = re.compile(f"[{rules.classes.alnum}]").match
        letters = "" if rules.language == "ro" else _latin_letters(self._alnum)
        self._inert_body = f"[A-Za-z0-9{letters}-]+"
        self._inert = re.compile(self._inert_body).fullmatch
        self._shapes = Shapes(rules, letters, self._unit_words_by_rules)
        self._words = Remembered(of_word, memory)
        # Chunks before another one that begins freely; at the end of a text; and those with a full stop at the end,
        # by what follows.
        self._chunks = Remembered(self._learn, memory)
        self._ends = Remembered(self._learn_end, memory)
        self._stops = {
            following: Remembered(partial(self._learn_stop, following), memory) for following in (LOWER, DIGIT, OTHER)
        }

    def __call__(self, text: str) -> list[T]:
        """Returns what is asked for of all pieces of a text."""
        if len(text) <= WINDOW:
            return self._of_window(text, END, begins=True)
        result: list[T] = []
        start = 0
        while (end := self._window_end(text, start)) != len(text):
            result += self._of_window(text[start:end], self._kind(text[end + 1]), begins=not start)
            start = end + 1
        result += self._of_window(text[start:], END, begins=not start)
        return result

    def _window_end(self, text: str, start: int) -> int:
        """Returns the place of the next space, a window on, at which nothing reaches across; else the text's end."""
        end = text.find(" ", start + WINDOW)
        while end != -1:
            before, after = text[end - 1], text[end + 1 : end + 2]
            if after and self._starts_freely(after) and (before == "." or self._ends_freely(before)):
                return end
            end = text.find(" ", end + 1)
        return len(text)

    def _of_window(self, text: str, following: str, *, begins: bool) -> list[T]:
        chunks = text.split(" ")
        last = chunks.pop()
        try:
            result = list(chain.from_iterable(map(self._chunks.__getitem__, chunks)))
            if following == END:
                result += self._ends[last]
            elif last[-1] == "." and self._starts_freely(last):
                result += self._stops[following][last]
            else:
                result += self._chunks[last]
        except NeedsNeighboursError:
            return self._by_units(text, following, begins=begins)
        return result

    def by_rules(self, text: str) -> list[T]:
        """Returns the same without any short cut."""
        return self._of_words(self._rules.words(text))

    def _of_words(self, words: Iterable[str]) -> list[T]:
        if self._fold_words:
            words = filter(None, map(fold, words))
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def _learn(self, chunk: str) -> Sequence[T]:
        if not chunk:
            return ()
        if self._inert(chunk) and "MULTI" not in chunk:
            return self._words[fold(chunk) if self._fold_words else chunk]
        last = chunk[-1]
        if last in DIVIDED_AT_THE_END and self._inert(chunk, 0, len(chunk) - 1) and "MULTI" not in chunk:
            word = fold(chunk[:-1]) if self._fold_words else chunk[:-1]
            return (*self._words[word], *self._words[last])
        if last == "." or not (self._starts_freely(chunk) and self._ends_freely(chunk)):
            raise NeedsNeighboursError
        return tuple(self._of_words(self._unit_words(chunk, OTHER)))

    def _learn_end(self, chunk: str) -> Sequence[T]:
        if not chunk or not self._starts_freely(chunk) or chunk[-1].isspace():
            raise NeedsNeighboursError
        if self._inert(chunk) and "MULTI" not in chunk:
            return self._words[fold(chunk) if self._fold_words else chunk]
        return tuple(self._of_words(self._unit_words(chunk, END)))

    def _learn_stop(self, following: str, chunk: str) -> Sequence[T]:
        return tuple(self._of_words(self._unit_words(chunk, following)))

    def _starts_freely(self, chunk: str) -> bool:
        first = chunk[0]
        return first in _FREE_STARTS or first in DIGITS or (first.isalpha() and self._alnum(first) is not None)

    def _ends_freely(self, chunk: str) -> bool:
        last = chunk[-1]
        return last in _FREE_ENDS or last in DIGITS or (last.isalpha() and self._alnum(last) is not None)

    def _by_units(self, text: str, following: str, *, begins: bool) -> list[T]:
        """Returns the result of a text by its units: the chunks, joined where one cannot stand alone."""
        if text[-1:].isspace():
            return self.by_rules(text)
        known = self._chunks.get
        result: list[T] = []
        alone: Sequence[T] | None = None  # the result of the last chunk, if it is one that stands alone
        joined: list[str] = []  # the chunks of the unit so far
        for chunk in text.split(" "):
            if not chunk:
                continue
            stands = known(chunk)  # such a chunk starts and ends freely
            if joined and (stands is not None or self._starts_freely(chunk)):
                if alone is not None:
                    result += alone
                    joined.clear()
                elif joined[-1][-1] == "." or self._ends_freely(joined[-1]):
                    result += self._of_unit(" ".join(joined), self._kind(chunk), begins=begins)
                    joined.clear()
                if not joined:
                    begins = False
            alone = stands if not joined else None
            joined.append(chunk)
        if joined:
            result += self._of_unit(" ".join(joined), following, begins=begins)
        return result

    def _kind(self, chunk: str) -> str:
        first = chunk[0]
        return DIGIT if first in DIGITS else LOWER if self._lower_first(first) else OTHER

    def _of_unit(self, unit: str, following: str, *, begins: bool) -> Sequence[T]:
        if begins and not self._starts_freely(unit):
            return self._of_words(self._unit_words(unit, following, begins=True))
        if not self._starts_freely(unit) or " " in unit:
            return self._of_words(self._unit_words(unit, following))
        if following == END:
            return self._ends[unit]
        return self._stops[following][unit] if unit[-1] == "." else self._chunks[unit]

    def _unit_words(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        """Returns the words of a unit by the rules, with a neutral word before it and what follows after it."""
        if unit[-1] == "." and self._inert(unit, 0, len(unit) - 1) and "MULTI" not in unit:
            stays = self._rules.full_stop_stays(unit[:-1], "" if following == END else following)
            return (unit,) if stays else (unit[:-1], ".")
        if unit[0] in DIVIDED_AT_THE_START and self._inert(unit, 1) and "MULTI" not in unit:
            return (unit[0], unit[1:])
        if begins:
            return self._unit_words_by_rules(unit, following, begins=True)
        return self._shapes.words(unit, following)

    def _unit_words_by_rules(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        before, after = "" if begins else f"{OTHER} ", "" if following == END else f" {following}"
        words = self._rules.words(f"{before}{unit}{after}")
        return words[len(before) // 2 : len(words) - len(after) // 2]


def _latin_letters(alnum: Callable[[str], object]) -> str:
    letters = (chr(code) for code in range(0xC0, 0x250))
    return "".join(letter for letter in letters if letter.isalpha() and alnum(letter))
