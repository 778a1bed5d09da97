"""One text at a time: each distinct chunk is worked out once and cached.

A chunk is what stands between two spaces. Most chunks come out the same whatever their neighbours are; where that is
certain, the result of a text is that of its chunks, one after the other. Three things reach across a space:

- Rules that look at punctuation at the edge of a chunk (``) .``, ``5 %``, an apostrophe beside another). A chunk stands
  alone only if it begins, and the chunk before it ends, with a character that no rule looks at across a space. A row of
  chunks that do not is one unit, worked out together.
- A full stop at the end of a unit, which stays or goes by the character that follows: lower case, digit, other.
- The end of the text, which matters to a last unit that does not end in a letter or digit.

Moses' rules themselves work out a unit, between two neutral words in place of its neighbours, so no rule is written
here again. Two kinds of unit have a short cut: those of letters, digits and hyphens alone, on which no rule acts, and
those with one sign at an end, on which few do.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

from xlm.tokenizer.casefold import casefold
from xlm.tokenizer.moses.tokenise import DIGITS, Moses

T = TypeVar("T")

MAX_CACHED = 1 << 17
"""How many results are cached at most. The largest take 800 bytes, those of real text 300."""
MAX_CACHED_LENGTH = 48
"""Characters of the longest chunk whose result is cached."""
MARK = "\x1f"
"""Separates parts of cache keys; a control character that hardly any text holds."""

WINDOW = 1 << 16
"""Characters that are divided into chunks at once, so that a long text takes little memory."""

# Signs that no rule looks at across a space: at the beginning, where no rule looks left of them, and at the end,
# where none looks right of them but to see whether the text goes on.
_FREE_STARTS = frozenset('"„“”([{$€£#@&*+=/-–_~<|')
_FREE_ENDS = frozenset("\"„“”)]},;:!?$€£%#@&*+=/-–_~|>'’`")
_DIVIDED_AT_THE_END = ",;:!?"  # what every rule set divides from letters and digits before it
_DIVIDED_AT_THE_START = '"('

# What follows a unit, as the rules can tell: the end of the text, a lower-case letter, a digit, something else.
END, LOWER, DIGIT, OTHER = "$", "x", "1", "X"


class Clearable(Protocol):
    """Whatever counts against a ``CacheBudget``."""

    def __len__(self) -> int: ...

    def clear(self) -> None:
        """Drop all results."""
        ...


class CacheBudget:
    """One bound on the number of results in all caches of a tokenizer together."""

    def __init__(self) -> None:
        self._caches: list[Clearable] = []

    def add(self, cache: Clearable) -> None:
        """Count one more cache."""
        self._caches.append(cache)

    def has_room(self, more: int) -> bool:
        """Return whether so many more results fit."""
        return sum(map(len, self._caches)) + more <= MAX_CACHED

    def clear(self) -> None:
        """Clear all caches: cheaper than keeping an order, and the frequent results are soon back."""
        for cache in self._caches:
            cache.clear()


class Cache(dict[str, Sequence[T]]):
    """Results by chunk, worked out when they are first asked for.

    Args:
        compute: Works out the result of a chunk.
        budget: Where they are counted.
    """

    def __init__(self, compute: Callable[[str], Sequence[T]], budget: CacheBudget) -> None:
        super().__init__()
        self._compute = compute
        self._budget = budget
        budget.add(self)

    def __missing__(self, chunk: str) -> Sequence[T]:
        result = self._compute(chunk)
        if len(chunk) <= MAX_CACHED_LENGTH:
            if not self._budget.has_room(1):
                self._budget.clear()
            self[chunk] = result
        return result


class Exclusive:
    """Holds one object of many results, to be checked out exclusively, for thread safety."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def __len__(self) -> int:
        return sum(map(len, self._items))

    def clear(self) -> None:
        """Drop the object."""
        self._items.clear()

    def take(self) -> Any:
        """Check the object out; None if there is none, or another thread has it."""
        try:
            return self._items.pop()
        except IndexError:
            return None

    def put_back(self, item: Any) -> None:
        """Return an object, in place of any that another thread has returned meanwhile."""
        self._items[:] = [item]


class NeedsNeighboursError(Exception):
    """The result of a chunk depends on what stands around it."""


class Segmenter(Generic[T]):
    """Divides texts into words and gives the values of each: its pieces, or their ids.

    Args:
        rules: Divide a text into words.
        casefolds: Whether the words are put into lower case without accents.
        of_word: Returns the values of one word.
        budget: Counts what is cached; by default one of its own.
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
        self._lower_first = rules.classes.lower_first.match
        self._alnum = re.compile(f"[{rules.classes.alnum}]").match
        letters = "" if rules.language == "ro" else _latin_letters(self._alnum)
        self._inert_body = f"[A-Za-z0-9{letters}-]+"
        self._inert = re.compile(self._inert_body).fullmatch
        self.patterns = Patterns(rules, letters, self.unit_words_by_rules)
        self._words = Cache(of_word, budget)
        # Chunks before another one that begins freely; at the end of a text; and those with a full stop at the end,
        # by what follows.
        self._chunks = Cache(self._chunk_values, budget)
        self._ends = Cache(self._last_chunk_values, budget)
        self._stops = {
            following: Cache(partial(self._stop_values, following), budget) for following in (LOWER, DIGIT, OTHER)
        }

    def __call__(self, text: str) -> list[T]:
        """Return the values of all words of a text."""
        if len(text) <= WINDOW:
            return self._of_window(text, END, begins=True)
        result: list[T] = []
        start = 0
        while (end := self._window_end(text, start)) != len(text):
            result += self._of_window(text[start:end], self.kind(text[end + 1]), begins=not start)
            start = end + 1
        result += self._of_window(text[start:], END, begins=not start)
        return result

    def _window_end(self, text: str, start: int) -> int:
        """Return the place of the next space, a window on, at which nothing reaches across; else the text's end."""
        end = text.find(" ", start + WINDOW)
        while end != -1:
            before, after = text[end - 1], text[end + 1 : end + 2]
            if after and self.starts_freely(after) and (before == "." or self.ends_freely(before)):
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
            elif last[-1] == "." and self.starts_freely(last):
                result += self._stops[following][last]
            else:
                result += self._chunks[last]
        except NeedsNeighboursError:
            return self._by_units(text, following, begins=begins)
        return result

    def _of_words(self, words: Iterable[str]) -> list[T]:
        if self.casefolds:
            words = filter(None, map(casefold, words))
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def _chunk_values(self, chunk: str) -> Sequence[T]:
        if not chunk:
            return ()
        if self._inert(chunk) and "MULTI" not in chunk:
            return self._words[casefold(chunk) if self.casefolds else chunk]
        last = chunk[-1]
        if last in _DIVIDED_AT_THE_END and self._inert(chunk, 0, len(chunk) - 1) and "MULTI" not in chunk:
            word = casefold(chunk[:-1]) if self.casefolds else chunk[:-1]
            return (*self._words[word], *self._words[last])
        if last == "." or not (self.starts_freely(chunk) and self.ends_freely(chunk)):
            raise NeedsNeighboursError
        return tuple(self._of_words(self.unit_words(chunk, OTHER)))

    def _last_chunk_values(self, chunk: str) -> Sequence[T]:
        if not chunk or not self.starts_freely(chunk) or chunk[-1].isspace():
            raise NeedsNeighboursError
        if self._inert(chunk) and "MULTI" not in chunk:
            return self._words[casefold(chunk) if self.casefolds else chunk]
        return tuple(self._of_words(self.unit_words(chunk, END)))

    def _stop_values(self, following: str, chunk: str) -> Sequence[T]:
        return tuple(self._of_words(self.unit_words(chunk, following)))

    def starts_freely(self, chunk: str) -> bool:
        """Return whether no rule looks left of the beginning of a chunk."""
        first = chunk[0]
        return first in _FREE_STARTS or first in DIGITS or (first.isalpha() and self._alnum(first) is not None)

    def ends_freely(self, chunk: str) -> bool:
        """Return whether no rule looks right of the end of a chunk."""
        last = chunk[-1]
        return last in _FREE_ENDS or last in DIGITS or (last.isalpha() and self._alnum(last) is not None)

    def _by_units(self, text: str, following: str, *, begins: bool) -> list[T]:
        """Return the values of a text by its units: the chunks, joined where one cannot stand alone."""
        if text[-1:].isspace():
            return self._of_words(self.rules.words(text))
        known = self._chunks.get
        result: list[T] = []
        alone: Sequence[T] | None = None  # the values of the last chunk, if it is one that stands alone
        joined: list[str] = []  # the chunks of the unit so far
        for chunk in text.split(" "):
            if not chunk:
                continue
            stands = known(chunk)  # such a chunk starts and ends freely
            if joined and (stands is not None or self.starts_freely(chunk)):
                if alone is not None:
                    result += alone
                    joined.clear()
                elif joined[-1][-1] == "." or self.ends_freely(joined[-1]):
                    result += self._of_unit(" ".join(joined), self.kind(chunk), begins=begins)
                    joined.clear()
                if not joined:
                    begins = False
            alone = stands if not joined else None
            joined.append(chunk)
        if joined:
            result += self._of_unit(" ".join(joined), following, begins=begins)
        return result

    def kind(self, chunk: str) -> str:
        """Return what a chunk is to the full stop before it: ``DIGIT``, ``LOWER`` or ``OTHER``."""
        first = chunk[0]
        return DIGIT if first in DIGITS else LOWER if self._lower_first(first) else OTHER

    def _of_unit(self, unit: str, following: str, *, begins: bool) -> Sequence[T]:
        if begins and not self.starts_freely(unit):
            return self._of_words(self.unit_words(unit, following, begins=True))
        if not self.starts_freely(unit) or " " in unit:
            return self._of_words(self.unit_words(unit, following))
        if following == END:
            return self._ends[unit]
        return self._stops[following][unit] if unit[-1] == "." else self._chunks[unit]

    def unit_words(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        """Return the words of a unit, by what follows it and whether it begins the text."""
        if unit[-1] == "." and self._inert(unit, 0, len(unit) - 1) and "MULTI" not in unit:
            stays = self.rules.full_stop_stays(unit[:-1], "" if following == END else following)
            return (unit,) if stays else (unit[:-1], ".")
        if unit[0] in _DIVIDED_AT_THE_START and self._inert(unit, 1) and "MULTI" not in unit:
            return (unit[0], unit[1:])
        if begins:
            return self.unit_words_by_rules(unit, following, begins=True)
        return self.patterns.words(unit, following)

    def unit_words_by_rules(self, unit: str, following: str, *, begins: bool = False) -> Sequence[str]:
        """Return the words of a unit without any short cut: the rules see it between two neutral words."""
        before, after = "" if begins else f"{OTHER} ", "" if following == END else f" {following}"
        words = self.rules.words(f"{before}{unit}{after}")
        return words[len(before) // 2 : len(words) - len(after) // 2]


def _latin_letters(alnum: Callable[[str], object]) -> str:
    letters = (chr(code) for code in range(0xC0, 0x250))
    return "".join(letter for letter in letters if letter.isalpha() and alnum(letter))


MAX_PATTERNS = 1 << 13
"""How many patterns are cached at most."""
MAX_PATTERN_LENGTH = 48
"""Characters of the longest unit that goes by its pattern."""
FIRST_BEYOND = 0x250
"""The first code point of which no character is in a run."""
SEEN_WHOLE = ("DOT", "MULTI", "\u00a0")
"""What the rules look for by name: their marker of dots, and a no-break space by what stands beside it."""

# A rule of English looks for an s, so that it stands for itself.
_LETTERS = str.maketrans(
    {letter: "q" for letter in string.ascii_lowercase if letter != "s"}
    | dict.fromkeys(string.ascii_uppercase, "Q")
    | dict.fromkeys(string.digits, "1")
)
_SEEN_WHOLE = re.compile("|".join(SEEN_WHOLE)).search
_FULL_STOP = re.compile("[.。．…]").search  # or what the rules make one of


def has_full_stop(unit: str) -> bool:
    """Return whether a unit holds a full stop, or what the rules make one of: an abbreviation can matter."""
    return _FULL_STOP(unit) is not None


class Patterns:
    """The words of units, cached by the pattern of a unit.

    Of a run of letters, digits and hyphens the rules see only what its first and last character are, whether it holds a
    letter, and whether it is an abbreviation. So ``"Berlin",`` and ``"Hamburg",`` come out alike, and the rules are
    asked once, about a short unit of that pattern: a letter for each letter at the ends of a run, one for what is
    between.

    Args:
        rules: Name the abbreviations.
        letters: The body of a ``[…]`` of the letters beyond ASCII that can be in a run; the rules must treat each of
            them like any other letter.
        words: Returns the words of a unit by the rules, before a text of which they see only the kind.
    """

    def __init__(self, rules: Moses, letters: str, words: Callable[[str, str], Sequence[str]]) -> None:
        self._is_abbreviation = rules.is_abbreviation
        self._words = words
        any_of, letter = f"[A-Za-z0-9{letters}-]", f"[A-Za-z{letters}]"
        self.is_in_run = _is(any_of)
        self.is_letter = _is(letter)
        self.runs: Callable[[str], list[str]] = re.compile(f"{any_of}+").findall
        self._parts: Callable[[str], list[str]] = re.compile(f"({any_of}+)").split
        # Lookarounds rather than groups, so that the replacement is plain text, which is much faster.
        self._shorten = re.compile(f"(?<={any_of}){any_of}*{letter}{any_of}*(?={any_of})").sub
        self._shorten_number = re.compile(f"(?<={any_of})[0-9-]+(?={any_of})").sub
        self._templates: dict[tuple[str, str], str | None] = {}

    def words(self, unit: str, following: str) -> Sequence[str]:
        """Return the words of a unit.

        Args:
            unit: Text that stands alone.
            following: What stands after it, as the rules can tell.
        """
        if len(unit) > MAX_PATTERN_LENGTH or _SEEN_WHOLE(unit):
            return self._words(unit, following)
        runs = self.runs(unit)
        if has_full_stop(unit) and any(map(self._is_abbreviation, runs)):
            return self._words(unit, following)
        pattern = self._shorten_number("1", self._shorten("q", self.letters_alike(unit)))
        key = pattern, following
        if key not in self._templates:
            if len(self._templates) >= MAX_PATTERNS:
                self._templates.clear()
            self._templates[key] = self._template(pattern, following)
        template = self._templates.get(key)  # another thread may have cleared them
        return self._words(unit, following) if template is None else (template % tuple(runs)).split(" ")

    def letters_alike(self, text: str) -> str:
        """Return a text in which ASCII letters and digits that the rules do not tell apart are the same."""
        return text.translate(_LETTERS)

    def parts(self, pattern: str, words: Sequence[str]) -> list[str] | None:
        """Return the words of a pattern, joined by spaces and split at its runs, which are every other part.

        None if the rules change a run, or know it by name: then a unit does not come out as its pattern does.

        Args:
            pattern: A unit that stands for all of its pattern.
            words: Its words.
        """
        runs = self.runs(pattern)
        if has_full_stop(pattern) and any(map(self._is_abbreviation, runs)):
            return None
        parts = self._parts(" ".join(words))
        return parts if parts[1::2] == runs else None

    def _template(self, pattern: str, following: str) -> str | None:
        """Return the words of a pattern, ``%s`` for each run; None if there are none for all units of it."""
        parts = self.parts(pattern, self._words(pattern, following))
        if parts is None:
            return None
        parts[::2] = [part.replace("%", "%%") for part in parts[::2]]
        parts[1::2] = ["%s"] * (len(parts) // 2)
        return "".join(parts)


def _is(class_of_characters: str) -> Callable[[str], bool]:
    match = re.compile(class_of_characters).match
    return lambda character: match(character) is not None
