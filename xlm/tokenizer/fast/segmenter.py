"""Divides one text at a time into words. The words of each distinct unit of text are computed once and cached.

A chunk is the text between two spaces. A unit is one chunk, or several that must be divided together. The words of most
chunks do not depend on the neighbouring chunks. There are three exceptions:

- Some rules look across a space at punctuation (``) .``, ``5 %``, two apostrophes with a space between them). Chunks
  with such characters beside the space form one unit; every other chunk is a unit by itself.
- Whether a full stop at the end of a unit is split off depends on the next character (lower case, digit, other).
- The end of the text affects the last unit if that unit does not end in a letter or digit.

Moses' rules are applied to each unit between two neutral words, which replace its neighbours. A short cut without these
rules divides units of letters, digits and hyphens with at most one sign at an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Generic, Protocol, TypeVar

from xlm.tokenizer.casefold import casefold
from xlm.tokenizer.moses.data import FIRST_BEYOND
from xlm.tokenizer.moses.tokenise import DIGITS, Moses

T = TypeVar("T")

MAX_CACHED = 1 << 18
"""The largest number of cached results. A result takes up to 800 bytes, 300 in real text."""
MAX_CACHED_LENGTH = 48
"""Length of the longest unit or word whose result is cached, in characters."""
MARK = "\x1f"
"""Separates the parts of cache keys: a control character that is rare in texts."""

_MAX_CHARACTERS = 1 << 12  # the most characters whose classes are cached

WINDOW = 1 << 16
"""The number of characters of a text that are divided into chunks at once, so that a long text needs little memory."""

# Signs that can start a unit: no rule looks left of them across a space. Signs that can end a unit: no rule looks right
# of them across a space, except to see whether the text goes on.
_FREE_STARTS = frozenset('"„“”([{$€£#@&*+=/-–_~<|')
_FREE_ENDS = frozenset("\"„“”)]},;:!?$€£%#@&*+=/-–_~|>'’`")
_DIVIDED_AT_THE_END = ",;:!?"  # signs that all rule sets split from letters and digits before them
_DIVIDED_AT_THE_START = '"('

# What follows a unit, as far as it affects the rules: the end of the text, a lower-case letter, a digit, anything else.
END, LOWER, DIGIT, OTHER = "$", "x", "1", "X"


class Clearable(Protocol):
    """A cache that counts against a ``CacheBudget``."""

    def __len__(self) -> int: ...

    def clear(self) -> None:
        """Drop all cached results."""
        ...


class CacheBudget:
    """A bound on the number of results in all caches of a tokenizer together."""

    def __init__(self) -> None:
        self._caches: list[Clearable] = []

    def add(self, cache: Clearable) -> None:
        """Add a cache."""
        self._caches.append(cache)

    def has_room(self, more: int) -> bool:
        """Return whether this many more results fit into the budget."""
        return sum(map(len, self._caches)) + more <= MAX_CACHED

    def clear(self) -> None:
        """Clear all caches."""
        # Clearing everything is cheaper than tracking the order of use, and frequent results are soon cached again.
        for cache in self._caches:
            cache.clear()


class Cache(dict[str, Sequence[T]]):
    """Results by key, computed on first use.

    Args:
        compute: Returns the result for a key.
        budget: Bounds the number of cached results.
    """

    def __init__(self, compute: Callable[[str], Sequence[T]], budget: CacheBudget) -> None:
        super().__init__()
        self._compute = compute
        self._budget = budget
        budget.add(self)

    def __missing__(self, key: str) -> Sequence[T]:
        result = self._compute(key)
        if len(key) <= MAX_CACHED_LENGTH:
            if not self._budget.has_room(1):
                self._budget.clear()
            self[key] = result
        return result


class Segmenter(Generic[T]):
    """Divides texts into words and returns the values of the words: their pieces, or the ids of the pieces.

    Args:
        rules: Moses' rules, which divide a text into words.
        casefolds: Whether to put the words into lower case without accents.
        of_word: Returns the values of one word.
        budget: Bounds the cached results; by default those of this segmenter alone.
    """

    def __init__(
        self,
        rules: Moses,
        *,
        casefolds: bool,
        of_word: Callable[[str], Sequence[T]],
        budget: CacheBudget | None = None,
    ) -> None:
        self.budget = budget = budget or CacheBudget()
        self.rules = rules
        self.casefolds = casefolds
        self._is_lower, self._is_alnum = map(lru_cache(_MAX_CHARACTERS), (rules.is_lower, rules.is_alnum))
        letters = "".join(filter(self.is_plain_letter, map(chr, range(FIRST_BEYOND))))
        self._inert = re.compile(f"[A-Za-z0-9{letters}-]+").fullmatch
        self._words = Cache(of_word, budget)
        # Caches of the values of units. A unit that ends in a full stop, and the last unit of a text, have separate
        # caches by what follows them; for all other units, what follows does not matter.
        self._stops = {
            following: Cache(partial(self._unit_values, following), budget) for following in (LOWER, DIGIT, OTHER)
        }
        self._ends = Cache(partial(self._unit_values, END), budget)
        self._chunks = Cache(partial(self._unit_values, OTHER), budget)  # for all other units of one chunk

    def __call__(self, text: str) -> list[T]:
        """Return the values of all words of a text."""
        if len(text) <= WINDOW:
            return self._of_window(text, END, begins=True)
        result: list[T] = []
        start = 0
        while (end := self._window_end(text, start)) != len(text):
            result += self._of_window(text[start:end], self.as_following(text[end + 1]), begins=not start)
            start = end + 1
        result += self._of_window(text[start:], END, begins=not start)
        return result

    def _window_end(self, text: str, start: int) -> int:
        """Return the index where the first unit ends that reaches one window beyond ``start``, or the text's length."""
        end = text.find(" ", start + WINDOW)
        while end != -1:
            before, after = text[end - 1], text[end + 1 : end + 2]
            if after and self.starts_freely(after) and (before == "." or self.ends_freely(before)):
                return end
            end = text.find(" ", end + 1)
        return len(text)

    def _of_window(self, text: str, following: str, *, begins: bool) -> list[T]:
        if text[-1:].isspace():
            return self._of_words(self.rules.words(text))
        known = self._chunks.get
        result: list[T] = []
        alone: Sequence[T] | None = None  # the values of the unit so far, if it is a single cached chunk
        unit: list[str] = []  # the chunks of the unit so far
        for chunk in text.split(" "):
            if not chunk:
                continue
            values = known(chunk)
            if unit and (values is not None or self.starts_freely(chunk)):
                if alone is not None:
                    result += alone
                    unit.clear()
                elif unit[-1][-1] == "." or self.ends_freely(unit[-1]):
                    result += self._of_unit(" ".join(unit), self.as_following(chunk), begins=begins)
                    unit.clear()
                if not unit:
                    begins = False
            alone = values if not unit else None
            unit.append(chunk)
        if unit:
            result += self._of_unit(" ".join(unit), following, begins=begins)
        return result

    def _of_unit(self, unit: str, following: str, *, begins: bool) -> Sequence[T]:
        if not self.starts_freely(unit) or " " in unit:
            return self._of_words(self.unit_words(unit, following, begins=begins and not self.starts_freely(unit)))
        if following == END:
            return self._ends[unit]
        return self._stops[following][unit] if unit[-1] == "." else self._chunks[unit]

    def _unit_values(self, following: str, unit: str) -> Sequence[T]:
        return tuple(self._of_words(self.unit_words(unit, following)))

    def _of_words(self, words: Iterable[str]) -> list[T]:
        if self.casefolds:
            words = filter(None, map(casefold, words))
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def is_plain_letter(self, character: str) -> bool:
        """Return whether a character is a letter beyond ASCII; the rules treat all of them alike.

        For Romanian there are none, because one of its rules rewrites some of these letters.
        """
        is_letter = character >= "\u00c0" and character.isalpha() and self._is_alnum(character)
        return is_letter and self.rules.language != "ro"

    def starts_freely(self, chunk: str) -> bool:
        """Return whether no rule looks across the space before a chunk."""
        first = chunk[0]
        return first in _FREE_STARTS or first in DIGITS or (first.isalpha() and self._is_alnum(first))

    def ends_freely(self, chunk: str) -> bool:
        """Return whether no rule looks across the space after a chunk."""
        last = chunk[-1]
        return last in _FREE_ENDS or last in DIGITS or (last.isalpha() and self._is_alnum(last))

    def as_following(self, chunk: str) -> str:
        """Classify a chunk by how it affects a full stop before it: ``DIGIT``, ``LOWER`` or ``OTHER``."""
        first = chunk[0]
        return DIGIT if first in DIGITS else LOWER if self._is_lower(first) else OTHER

    def unit_words(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        """Return the words of a unit, given what follows it and whether it begins the text."""
        if "MULTI" not in unit:
            first, last = unit[0], unit[-1]
            if self._inert(unit):
                return (unit,)
            if last == "." and self._inert(unit, 0, len(unit) - 1):
                stays = self.rules.full_stop_stays(unit[:-1], "" if following == END else following)
                return (unit,) if stays else (unit[:-1], ".")
            if last in _DIVIDED_AT_THE_END and following != END and self._inert(unit, 0, len(unit) - 1):
                return (unit[:-1], last)
            if first in _DIVIDED_AT_THE_START and self._inert(unit, 1):
                return (first, unit[1:])
        return self.unit_words_by_rules(unit, following, begins=begins)

    def unit_words_by_rules(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        """Return the words of a unit without the short cut, by applying the rules to it between two neutral words."""
        before, after = "" if begins else f"{OTHER} ", "" if following == END else f" {following}"
        words = self.rules.words(f"{before}{unit}{after}")
        return words[len(before) // 2 : len(words) - len(after) // 2]
