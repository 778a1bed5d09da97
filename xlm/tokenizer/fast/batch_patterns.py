"""Divides many units of text into words at once, by the patterns of the units.

Moses' rules look at only four things in a run of letters, digits and hyphens: its first character, its last character,
whether it holds a letter, and whether it is an abbreviation. So ``"Berlin",`` and ``"Hamburg",`` have the same pattern,
and the rules are applied only once, to a short unit that stands for the pattern. In that unit, a run keeps one
character for each of its ends and one for everything between them.

Each unit has a key: its text and, if the rules depend on the text after the unit, a mark and a code for that text. So
one dictionary can hold the same unit with different text after it. The pattern of a unit is made from its key.

Array dimensions: C characters, R runs, K keys, E elements. The words of a pattern consist of elements; each element is
a run of the unit or literal text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from xlm.tokenizer.fast.arrays import Array, CharacterTable, GrowableArray, codes_of, expand_slices, starts_of, text_of
from xlm.tokenizer.fast.segmenter import DIGIT, END, LOWER, MARK, OTHER, Segmenter

_MAX_PATTERNS = 1 << 14
_MAX_LENGTH = 48  # the longest unit, in characters, that is divided into words with the help of its pattern
_NOT_IN_PATTERNS = ("DOT", "MULTI", "\u00a0")  # units with such text have no pattern: dot markers, no-break spaces
_FULL_STOP = re.compile("[.。．…]")  # a full stop, or a character that the rules turn into one
_LOWER_LETTER, _LETTER = "\u00e9\u00c9"  # stand for letters beyond ASCII in a pattern
_CATALAN = "\u00c2"  # the letter beyond ASCII that a Catalan rule looks for
# The number of a character in a table: the code point that stands for it in a pattern, and these bits.
_CODE = (1 << 21) - 1
_IS_SEEN, _IS_RUN, _IS_LETTER = 1 << 21, 1 << 22, 1 << 23  # the last two: can be in a run; is a letter

_BETWEEN = f"{MARK} "  # separates joined keys; no key contains it, because no key has a space after its mark

# The codes after the mark in a key: the first says what follows the unit, and _BEGINS that the unit begins the text.
_FOLLOWING = {"": END, "\x01": LOWER, "\x02": DIGIT, "\x03": OTHER}
_CODES = {following: code for code, following in _FOLLOWING.items()}
_BEGINS = "\x04"

_LITERAL = -1 << 40  # in place of a run's index, marks literal text; stays negative when any index is added to it


def key_of(unit: str, following: str, *, begins: bool) -> str:
    """Return the key of a unit that ends in a full stop, holds spaces or does not start freely (see ``Segmenter``)."""
    return f"{unit}{MARK}{_CODES[following]}{_BEGINS if begins else ''}"


def _unit_of(key: str) -> tuple[str, str, bool]:
    """Return the unit of a key, what follows it, and whether it begins the text."""
    unit, mark, rest = key.partition(MARK)
    return unit, _FOLLOWING[rest.removesuffix(_BEGINS)] if mark else OTHER, rest.endswith(_BEGINS)


@dataclass(frozen=True, slots=True)
class JoinedKeys:
    """Several keys, joined to one text.

    Attributes:
        keys: The keys.
        text: The joined keys, with a mark and a space before and after each key.
        codes: The code points of the text; (C,).
        starts: The start of each key in the text; int64 (K,).
        lengths: The length of each key; int64 (K,).
    """

    keys: Sequence[str]
    text: str
    codes: Array
    starts: Array
    lengths: Array

    @classmethod
    def of(cls, keys: Sequence[str]) -> JoinedKeys:
        """Join keys; at least one key is required."""
        text = f"{_BETWEEN}{_BETWEEN.join(keys)}{_BETWEEN}"
        lengths_K = np.fromiter(map(len, keys), np.int64, len(keys))
        starts_K = starts_of(lengths_K + len(_BETWEEN)) + len(_BETWEEN)
        return cls(keys, text, codes_of(text), starts_K, lengths_K)


class BatchPatterns:
    """Divides many units into words by their patterns.

    Args:
        segmenter: Divides one unit.
    """

    def __init__(self, segmenter: Segmenter[Any]) -> None:
        self._segmenter = segmenter
        self._rules = segmenter.rules
        any_of = f"[A-Za-z0-9{''.join(filter(segmenter.is_plain_letter, (_LOWER_LETTER, _LETTER, _CATALAN)))}-]"
        self._runs: Callable[[str], list[str]] = re.compile(f"{any_of}+").findall
        self._parts: Callable[[str], list[str]] = re.compile(f"({any_of}+)").split
        self._characters = CharacterTable(self._of_character)
        self._clear()

    def _clear(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._first_element, self._number_of_elements = GrowableArray(np.int64), GrowableArray(np.int64)
        self._is_unlike, self._has_full_stop = GrowableArray(bool), GrowableArray(bool)
        self._element_run = GrowableArray(np.int64)  # for each element, the index of its run in the unit, or _LITERAL
        # For each element of literal text, its slice of _literals.
        self._element_start, self._element_length = GrowableArray(np.int64), GrowableArray(np.int64)
        self._literals = GrowableArray(np.uint32)

    def _of_character(self, character: str) -> int:
        """Return the number of a character in the table.

        In a pattern, q stands for any lower-case letter but s, which an English rule looks for. Q stands for any
        capital letter, and 1 for any digit.
        """
        if character.isascii() and character.isalnum():
            stand_in = "1" if character.isdigit() else "Q" if character.isupper() else "s" if character == "s" else "q"
            return ord(stand_in) | _IS_SEEN | _IS_RUN | (0 if character.isdigit() else _IS_LETTER)
        is_lower = self._rules.is_lower(character)
        # Letters of the category Ll are those of a rule for Tetum; nearly all letters in lower case are.
        is_plain = is_lower == (unicodedata.category(character) == "Ll") and self._segmenter.is_plain_letter(character)
        if not is_plain:
            return ord(character) | _IS_SEEN | (_IS_RUN if character == "-" else 0)
        stand_in = _CATALAN if character == _CATALAN else _LOWER_LETTER if is_lower else _LETTER
        return ord(stand_in) | _IS_SEEN | _IS_RUN | _IS_LETTER

    def words(self, joined: JoinedKeys) -> str:
        """Return the words of units as one text: spaces separate the words of a unit, and ``MARK`` ends each unit."""
        if len(self._numbers) > _MAX_PATTERNS:
            self._clear()
        keys, codes, starts_K, lengths_K = joined.keys, joined.codes, joined.starts, joined.lengths
        characters = self._characters(codes)
        is_run = characters & _IS_RUN != 0
        patterns = self._patterns_of(characters, is_run, starts_K)

        has_no_pattern_K = lengths_K > _MAX_LENGTH
        for name in _NOT_IN_PATTERNS:
            position = joined.text.find(name)
            while position != -1:
                has_no_pattern_K[np.searchsorted(starts_K, position, side="right") - 1] = True
                position = joined.text.find(name, position + 1)
        for index in np.flatnonzero(has_no_pattern_K).tolist():
            patterns[index] = ""
        known = len(self._first_element)
        template_K = np.fromiter(map(self._numbers.__getitem__, patterns), np.int64, len(keys))
        if len(self._numbers) > known:
            self._learn([*self._numbers][known:])

        run_starts = np.flatnonzero(is_run[1:] & ~is_run[:-1]) + 1
        run_lengths = np.flatnonzero(is_run[:-1] & ~is_run[1:]) + 1 - run_starts
        first_run_K = np.searchsorted(run_starts, starts_K)
        runs_K = np.searchsorted(run_starts, starts_K + lengths_K) - first_run_K
        unlike_K = has_no_pattern_K | self._is_unlike.values[template_K]
        has_full_stop_K = self._has_full_stop.values[template_K] & ~unlike_K & (runs_K > 0)
        with_full_stop = np.flatnonzero(has_full_stop_K)
        if len(with_full_stop):
            runs = expand_slices(first_run_K[with_full_stop], runs_K[with_full_stop])
            is_abbreviation_R = self._are_abbreviations(joined.text, run_starts[runs], run_lengths[runs])
            unlike_K[with_full_stop] = np.logical_or.reduceat(is_abbreviation_R, starts_of(runs_K[with_full_stop]))

        # Each unit is a row of elements, and each element is a slice of ``source``, which holds the text of the keys,
        # then the literal texts of the patterns, then the words of the units that have no pattern.
        unlike = np.flatnonzero(unlike_K)
        others = [self._others_words(keys[index]) for index in unlike.tolist()]
        source = np.concatenate([codes, self._literals.values, codes_of("".join(others))])
        elements_K = np.where(unlike_K, 1, self._number_of_elements.values[template_K])
        first_E = starts_of(elements_K)
        element_E = expand_slices(self._first_element.values[template_K], elements_K)
        run_E = self._element_run.values[element_E]
        is_run_E = run_E >= 0
        run_E += np.repeat(first_run_K, elements_K)
        start_E = self._element_start.values[element_E] + len(codes)
        length_E = self._element_length.values[element_E]
        start_E[is_run_E], length_E[is_run_E] = run_starts[run_E[is_run_E]], run_lengths[run_E[is_run_E]]
        others_lengths = np.fromiter(map(len, others), np.int64, len(others))
        start_E[first_E[unlike]] = starts_of(others_lengths) + len(codes) + len(self._literals)
        length_E[first_E[unlike]] = others_lengths
        return text_of(source[expand_slices(start_E, length_E)])

    def _patterns_of(self, characters: Array, is_run: Array, starts_K: Array) -> list[str]:
        """Return the pattern of each joined key.

        A run is shortened to its first character, one character for its middle, and its last character. The middle
        becomes ``q`` if it holds a letter, and ``1`` otherwise.

        Args:
            characters: The numbers of the characters in the table; (C,).
            is_run: Whether each character is in a run; (C,).
            starts_K: The start of each key.
        """
        pattern = characters & _CODE
        # An s matters only after an apostrophe, and the case of a letter only at the start of a run.
        ends = np.flatnonzero(is_run[:-2] & is_run[1:-1] & ~is_run[2:]) + 1
        for places, letter in ((ends, "s"), (ends, "Q"), (starts_K, "s")):
            pattern[places[pattern[places] == ord(letter)]] = ord("q")
        is_middle = is_run.copy()
        is_middle[1:] &= is_run[:-1]
        is_middle[:-1] &= is_run[1:]
        middles = np.flatnonzero(is_middle[1:] & ~is_middle[:-1]) + 1
        is_kept = ~is_middle
        if len(middles):
            has_letter = np.logical_or.reduceat(is_middle & (characters & _IS_LETTER != 0), middles)
            pattern[middles] = np.where(has_letter, ord("q"), ord("1"))
            is_kept[middles] = True
        return text_of(pattern[is_kept])[len(_BETWEEN) : -len(_BETWEEN)].split(_BETWEEN)

    def _are_abbreviations(self, text: str, starts_R: Array, lengths_R: Array) -> Array:
        """Return whether each run of a text is an abbreviation: bool (R,)."""
        slices = map(slice, starts_R.tolist(), (starts_R + lengths_R).tolist())
        return np.fromiter(map(self._rules.is_abbreviation, map(text.__getitem__, slices)), bool, len(starts_R))

    def _others_words(self, key: str) -> str:
        unit, following, begins = _unit_of(key)
        return " ".join(self._segmenter.unit_words(unit, following, begins=begins) if unit else ()) + MARK

    def _learn(self, patterns: Sequence[str]) -> None:
        """Divide new patterns into words by the rules, and store these words as elements."""
        units = [*map(_unit_of, patterns)]
        # A rule can join a unit that does not start freely to the word before it: "X :n" in Finnish.
        inside = [
            (pattern, unit, following)
            for pattern, (unit, following, begins) in zip(patterns, units, strict=True)
            if unit and following != END and not begins and unit.isprintable() and self._segmenter.starts_freely(unit)
        ]
        known = self._words_inside(inside)
        parts_of: list[list[str] | None] = []
        for pattern, (unit, following, begins) in zip(patterns, units, strict=True):
            words = known.get(pattern)
            if words is None:
                words = self._segmenter.unit_words(unit, following, begins=begins) if unit else ()
            parts_of.append(self._parts_of(unit, words))
        self._is_unlike.append(np.array([parts is None for parts in parts_of], bool))
        self._has_full_stop.append(np.array([_FULL_STOP.search(pattern) is not None for pattern in patterns], bool))
        # In the parts of a pattern, literal text and runs alternate. The first and the last part are literal text; the
        # mark is added to the last part.
        elements = [
            [(index, part) for index, part in enumerate([*parts[:-1], parts[-1] + MARK]) if part]
            for parts in (parts or [""] for parts in parts_of)
        ]
        numbers = np.fromiter(map(len, elements), np.int64, len(patterns))
        self._first_element.append(starts_of(numbers) + len(self._element_run))
        self._number_of_elements.append(numbers)
        lengths = np.array([len(part) for row in elements for _, part in row], np.int64)
        self._element_start.append(starts_of(lengths) + len(self._literals))
        self._element_length.append(lengths)
        self._literals.append(codes_of("".join(part for row in elements for _, part in row)))
        self._element_run.append(
            np.array([index // 2 if index % 2 else _LITERAL for row in elements for index, _ in row], np.int64)
        )

    def _parts_of(self, pattern: str, words: Sequence[str]) -> list[str] | None:
        """Join the words of a pattern by spaces, and split the result at its runs; every second part is a run.

        Return None if the rules change a run or a run is an abbreviation: then the units of the pattern cannot all be
        divided as the pattern is.
        """
        runs = self._runs(pattern)
        if _FULL_STOP.search(pattern) and any(map(self._rules.is_abbreviation, runs)):
            return None
        first, *others = self._parts(" ".join(words))
        parts = [first]
        for run, literal in zip(others[::2], others[1::2], strict=True):
            if len(parts) // 2 < len(runs) and run == runs[len(parts) // 2]:
                parts += (run, literal)
            elif run == "-":  # literal text: the rules replace a dash by a hyphen
                parts[-1] += run + literal
            else:
                return None
        return parts if len(parts) // 2 == len(runs) else None

    def _words_inside(self, units: Sequence[tuple[str, str, str]]) -> dict[str, Sequence[str]]:
        """Return the words of units inside a text; they are divided as one text, with neutral words between.

        Args:
            units: The pattern of each unit, its text, and what follows it.

        Returns:
            The words by pattern.
        """
        # The neutral word also stands for what follows, if that is anything but a lower-case letter or a digit.
        texts = [unit if following == OTHER else f"{unit} {following}" for _, unit, following in units]
        words = self._rules.words(f" {OTHER} ".join(["", *texts, ""]))
        neutral = [index for index, word in enumerate(words) if word == OTHER]
        assert len(neutral) == len(units) + 1  # no pattern can contain the neutral word
        return {
            pattern: words[start + 1 : end - (following != OTHER)]
            for (pattern, _, following), start, end in zip(units, neutral, neutral[1:])  # noqa: B905
        }
