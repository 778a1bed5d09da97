"""Divides many texts at once into words. Each distinct unit is divided once, and numpy joins the values of all texts.

Each distinct chunk of the texts gets a number, and arrays describe the chunk of each number. A text is then a row of
numbers, and numpy finds the units and values of all texts together. ``segmenter.py`` defines chunks and units.

Array dimensions: N chunks, U units, K new units, W words, S values (ids, or pieces of words).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count, islice
from typing import Any

import numpy as np

from xlm.tokenizer.casefold import casefold_all
from xlm.tokenizer.fast.arrays import (
    Array,
    CharacterTable,
    GrowableArray,
    RaggedArray,
    codes_of,
    expand_slices,
    starts_of,
)
from xlm.tokenizer.fast.batch_bpe import BatchWords
from xlm.tokenizer.fast.batch_patterns import BatchPatterns, JoinedKeys, key_of
from xlm.tokenizer.fast.chunk_index import ChunkIndex, Chunks
from xlm.tokenizer.fast.segmenter import DIGIT, END, LOWER, MARK, MAX_CACHED_LENGTH, OTHER, WINDOW, Segmenter


class BatchSegmenter:
    """Divides many texts into words and returns the values of each text, as a ``Segmenter`` does for one.

    ``len`` of a ``BatchSegmenter`` is the number of results that it caches.

    Args:
        segmenter: Divides one text.
        of_words: Returns the values of words.
    """

    def __init__(self, segmenter: Segmenter[Any], of_words: BatchWords[Any]) -> None:
        self._segmenter = segmenter
        self._of_words = of_words
        self._idle_tables: list[BatchTables] = []  # contains the tables, or is empty while a thread uses them
        self._budget = segmenter.budget
        self._budget.add(self)

    def __len__(self) -> int:
        return sum(map(len, self._idle_tables))

    def clear(self) -> None:
        """Drop all cached results."""
        self._idle_tables.clear()

    def __call__(self, texts: Sequence[str]) -> RaggedArray:
        """Return the values of all words of each text."""
        alone = [index for index, text in enumerate(texts) if len(text) > WINDOW or MARK in text]
        if not alone and texts:
            return self._at_once(texts)
        parts: list[RaggedArray] = []
        start = 0
        for index in [*alone, len(texts)]:
            if start < index:
                parts.append(self._at_once(texts[start:index]))
            parts.append(RaggedArray.of([*map(self._segmenter, texts[index : index + 1])], self._of_words.dtype))
            start = index + 1
        return RaggedArray.joined(parts)

    def _at_once(self, texts: Sequence[str]) -> RaggedArray:
        try:
            tables = self._idle_tables.pop()
        except IndexError:
            tables = BatchTables(self._segmenter, self._of_words)
        rows = RaggedArray(*tables.of_texts(texts))
        # Put the tables back only after success, because an error may leave them incomplete.
        if not self._budget.has_room(len(tables)):
            self._budget.clear()
        if self._budget.has_room(len(tables)):
            self._idle_tables[:] = [tables]
        return rows


# Bits that describe a chunk. The comments list what each bit says.
_STARTS, _ENDS, _STOP = 1, 2, 4  # the chunk starts freely; the chunk ends freely; the chunk ends in a full stop
_LAST, _HARD = 8, 32  # the chunk is the last of its text; is the last and ends in whitespace
_IS_DIGIT, _IS_LOWER = 64, 128  # the chunk starts with a digit; the chunk starts with a lower-case letter
_SEEN = 256  # marks a character whose bits have been computed
_AT_START, _AT_END = _STARTS | _IS_DIGIT | _IS_LOWER, _ENDS | _STOP


class Table:
    """Assigns numbers to texts, and stores for each number which slice of an array holds its values.

    Attributes:
        starts: The start of each slice.
        lengths: The length of each slice.
    """

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict()
        self.starts, self.lengths = GrowableArray(np.int64), GrowableArray(np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def numbers(self, texts: Sequence[str]) -> tuple[Array, list[str]]:
        """Return the number of each text, int64 (N,), and the new texts in the order of their numbers.

        The slices of new texts must be stored before the next call.
        """
        self._numbers.default_factory = count(len(self)).__next__
        before = len(self._numbers)
        numbers = np.fromiter(map(self._numbers.__getitem__, texts), np.int64, len(texts))
        new = [*islice(reversed(self._numbers), len(self._numbers) - before)]
        new.reverse()
        return numbers, new

    def drop(self, texts: Sequence[str]) -> None:
        """Forget the numbers of long texts; a forgotten text that occurs again gets a new number."""
        for text in [text for text in texts if len(text) > MAX_CACHED_LENGTH]:
            del self._numbers[text]


class BatchTables:
    """The known chunks, units and words of one language, and their values.

    Args:
        segmenter: Divides one text.
        of_words: Returns the values of words.
    """

    def __init__(self, segmenter: Segmenter[Any], of_words: BatchWords[Any]) -> None:
        self._segmenter = segmenter
        self._patterns = BatchPatterns(segmenter)
        self._of_words = of_words
        self._units, self._words = Table(), Table()
        self._short_units = ChunkIndex()  # the numbers of short chunks; ``_units`` holds those of all other units
        self._known_of_units = GrowableArray(np.uint8)
        self._known_of_characters = CharacterTable(self._of_character)
        self._values = GrowableArray(of_words.dtype)

    def __len__(self) -> int:
        # A result with many values counts as several results.
        return max(len(self._units) + len(self._words), len(self._values) // 8)

    def of_texts(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Return the values of all texts, text by text, and the number of values of each text.

        Args:
            texts: At least one text; no text contains ``MARK``.

        Returns:
            The values, (S,), and the numbers of values, int64 (number of texts,).
        """
        chunks = Chunks.of(f"{f'{MARK} '.join(texts)}{MARK}")
        numbers_N, long = self._numbers_of(chunks)
        known_N = self._known_of_units.values[numbers_N]
        # A unit begins where a text begins, and where one chunk ends freely and the next one starts freely.
        begins_N = np.ones(len(numbers_N), bool)
        begins_N[1:] = known_N[:-1] & _LAST != 0
        is_free_N = known_N & _STARTS != 0
        is_free_N[1:] &= known_N[:-1] & (_ENDS | _STOP) != 0
        is_unit_N = begins_N | is_free_N
        is_hard_N = known_N & _HARD != 0
        if is_hard_N.any():
            text_of_N = np.cumsum(begins_N) - 1
            is_unit_N &= begins_N | ~np.isin(text_of_N, text_of_N[is_hard_N])
        first_U = np.flatnonzero(is_unit_N)
        last_U = np.append(first_U[1:], len(numbers_N)) - 1
        numbers_U = numbers_N[first_U]
        begins_U, at_start_U, at_end_U = begins_N[first_U], known_N[first_U], known_N[last_U]
        odd_U = (first_U != last_U) | (at_end_U & (_STOP | _LAST) == _STOP) | (at_end_U & _HARD != 0)
        odd_U |= begins_U & (at_start_U & _STARTS == 0)
        odd = np.flatnonzero(odd_U)
        if len(odd):
            begins_odd = begins_U[odd] & ((at_start_U[odd] & _STARTS == 0) | (at_end_U[odd] & _HARD != 0))
            following = np.append(at_start_U[1:], 0)[odd]
            keys = [
                key_of(
                    chunks.text(first, last).removesuffix(MARK),
                    _following(end, start),
                    begins=begins,
                )
                for first, last, end, start, begins in zip(
                    first_U[odd].tolist(),
                    last_U[odd].tolist(),
                    at_end_U[odd].tolist(),
                    following.tolist(),
                    begins_odd.tolist(),
                    strict=True,
                )
            ]
            hard = np.flatnonzero(at_end_U[odd] & _HARD)
            texts_U = np.cumsum(begins_U) - 1
            for index, text in zip(hard.tolist(), texts_U[odd[hard]].tolist(), strict=True):
                keys[index] = key_of(texts[text], END, begins=True)
            numbers_U[odd], new_keys = self._units.numbers(keys)
            self._learn(new_keys, are_keys=True)
            long += new_keys
        lengths_U = self._units.lengths.values[numbers_U]
        values = self._values.values[expand_slices(self._units.starts.values[numbers_U], lengths_U)]
        lengths = np.add.reduceat(lengths_U, np.flatnonzero(begins_U))
        self._units.drop(long)
        return values, lengths

    def _numbers_of(self, chunks: Chunks) -> tuple[Array, list[str]]:
        """Return the number of each chunk after learning new chunks, int64 (N,), and the new chunks that are long."""
        is_short_N = chunks.is_short()
        numbers_N, new = self._short_units.numbers(chunks.words()[is_short_N], len(self._units))
        all_short = len(numbers_N) == len(is_short_N)
        self._learn(chunks.texts(new if all_short else np.flatnonzero(is_short_N)[new]))
        if all_short:
            return numbers_N, []
        all_numbers_N = np.empty(len(is_short_N), np.int64)
        all_numbers_N[is_short_N] = numbers_N
        all_numbers_N[~is_short_N], long = self._units.numbers(chunks.texts(np.flatnonzero(~is_short_N)))
        self._learn(long)
        return all_numbers_N, long

    def _learn(self, keys: Sequence[str], *, are_keys: bool = False) -> None:
        """Compute and store the values of new keys or chunks.

        Chunks that are not units by themselves are stored too, but their values are never looked up.
        """
        if not keys:
            return
        joined = JoinedKeys.of(keys)
        self._known_of_units.append(np.zeros(len(keys), np.uint8) if are_keys else self._known(joined))
        starts_K, lengths_K = self._values_of(joined)
        self._units.starts.append(starts_K)
        self._units.lengths.append(lengths_K)

    def _known(self, chunks: JoinedKeys) -> Array:
        """Return the bits that describe each chunk: uint8 (K,)."""
        ends_K = chunks.starts + chunks.lengths
        is_last_K = (chunks.codes[ends_K - 1] == ord(MARK)) & (chunks.lengths > 0)
        first_K = chunks.codes[chunks.starts]
        last_K = chunks.codes[ends_K - 1 - is_last_K]
        known_K = self._known_of_characters(first_K) & _AT_START
        known_K |= self._known_of_characters(last_K) & (_AT_END | _HARD)
        known_K[chunks.lengths == is_last_K] = 0
        known_K &= np.where(is_last_K, 0xFF, 0xFF - _HARD).astype(np.uint32)
        known_K[is_last_K] |= _LAST
        known: Array = known_K.astype(np.uint8)
        return known

    def _of_character(self, character: str) -> int:
        following = self._segmenter.as_following(character)
        return (
            _SEEN
            | (_STARTS if self._segmenter.starts_freely(character) else 0)
            | (_STOP if character == "." else _ENDS if self._segmenter.ends_freely(character) else 0)
            | (_HARD if character.isspace() and character != "\n" else 0)
            | (_IS_DIGIT if following == DIGIT else _IS_LOWER if following == LOWER else 0)
        )

    def _values_of(self, keys: JoinedKeys) -> tuple[Array, Array]:
        """Return the index where the values of each unit start, and the number of its values: int64 (K,) and (K,)."""
        text = self._patterns.words(keys)
        if self._segmenter.casefolds:
            (text,) = casefold_all([text])
        codes = codes_of(text)
        is_mark = codes == ord(MARK)
        is_text = ~is_mark & (codes != ord(" "))
        is_first = is_text.copy()
        is_first[1:] &= ~is_text[:-1]
        words_so_far = np.cumsum(is_first)[is_mark]
        words_K = np.diff(words_so_far, prepend=0)
        words = text.split()
        assert len(words) == words_so_far[-1]
        numbers_W = self._numbers_of_words(words)
        starts_W, lengths_W = self._words.starts.values[numbers_W], self._words.lengths.values[numbers_W]
        # A unit of one word shares the stored values of the word. The values of every other unit are joined and stored.
        several_K = words_K != 1
        several_W = np.repeat(several_K, words_K)
        starts_K, lengths_K = np.zeros(len(words_K), np.int64), np.zeros(len(words_K), np.int64)
        starts_K[~several_K], lengths_K[~several_K] = starts_W[~several_W], lengths_W[~several_W]
        values = self._values.values[expand_slices(starts_W[several_W], lengths_W[several_W])]
        so_far = np.append(0, np.cumsum(lengths_W[several_W]))
        words_so_far = np.cumsum(words_K[several_K])
        ends = so_far[words_so_far]
        lengths_K[several_K] = np.diff(ends, prepend=0)
        starts_K[several_K] = ends - lengths_K[several_K] + self._values.append(values)
        return starts_K, lengths_K

    def _numbers_of_words(self, words: Sequence[str]) -> Array:
        numbers_W, new = self._words.numbers(words)
        if new:
            values, lengths = self._of_words(new)
            self._words.starts.append(starts_of(lengths) + self._values.append(values))
            self._words.lengths.append(lengths)
            self._words.drop(new)
        return numbers_W


def _following(end: int, start: int) -> str:
    """Return what follows a unit, given the bits of its last chunk and the bits of the next chunk."""
    return END if end & _LAST else DIGIT if start & _IS_DIGIT else LOWER if start & _IS_LOWER else OTHER
