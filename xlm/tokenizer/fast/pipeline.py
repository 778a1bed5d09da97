"""From texts to pieces or ids: the same results as ``xlm.tokenizer.pipeline``, from caches and arrays."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xlm.tokenizer.alignment import Span
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.casefold import casefold, lowercase_and_remove_accent
from xlm.tokenizer.fast.bpe import FastBPE
from xlm.tokenizer.fast.segmenter import Cache, CacheBudget, Segmenter
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.pipeline import DEFAULT_LANGUAGE, Pipeline
from xlm.tokenizer.vocabulary import END_OF_WORD
from xlm.tokenizer.word_segmenters import LANGUAGES, WordSegmenter

if TYPE_CHECKING:
    from xlm.tokenizer.fast.arrays import Array, RaggedArray
    from xlm.tokenizer.fast.batch_bpe import BatchWords
    from xlm.tokenizer.fast.batch_segmenter import BatchSegmenter

_MAX_SEGMENTERS = 256
"""The largest number of cached segmenters, one for each language and output; a further segmenter clears the cache.

This is enough for the pieces and ids of a hundred languages. A segmenter takes 300 KB for its rules and tables, so all
segmenters take at most 80 MB. ``segmenter.MAX_CACHED`` bounds the cached results of all segmenters together.
"""

_WORD = "A-Za-z0-9À-ÖØ-öø-ÿ"
_SIMPLE = re.compile(
    rf"""(?: *(?:["(']?[{_WORD}]+(?:[-'.,:/][{_WORD}]+)*(?:[,;:?!.][")]?|[")'][,;:?!.]?)?|-)(?= |$))* *"""
).fullmatch
"""Matches texts in which no rule rewrites characters that a blank or another sign separates: if the pieces hold the
characters of the text in order, each piece comes from its own characters alone."""

_FEW = 1 << 12  # for texts with at most this many characters in total, processing one text at a time is faster


class FastPipeline:
    """Divides texts into pieces and ids as a ``Pipeline`` does.

    Args:
        plain: The specification, whose results this class reproduces.
        bpe: Splits words into pieces.

    Attributes:
        plain: The specification, as passed.
    """

    def __init__(self, plain: Pipeline, bpe: BPE) -> None:
        self.plain = plain
        self._plain_bpe = bpe
        self._bpe = FastBPE(bpe, plain.ids, plain.unk_id)
        self._batch_words: dict[str, BatchWords[Any]] = {}
        self._id_objects: Array | None = None
        self._clear()

    def _clear(self) -> None:
        self._segmenters: dict[tuple[str, str], Callable[[str], list[Any]]] = {}
        self._batch_segmenters: dict[tuple[str, str], BatchSegmenter] = {}
        self._budget = CacheBudget()
        words = Cache(self._bpe.split, self._budget)
        self._with_cached_words = dataclasses.replace(self.plain, bpe=words.__getitem__)

    def __reduce__(self) -> tuple[object, ...]:
        # The caches are not pickled: they contain rules, which cannot be pickled, and they soon fill again.
        return FastPipeline, (self.plain, self._plain_bpe)

    def pieces(self, text: str, lang: str | None) -> list[str]:
        """Return the pieces of a text, including those that have no id.

        Raises:
            LanguageError: The preset cannot divide text of this language into words.
            DependencyError: The word segmenter of the language is not installed.
        """
        return self._values(text, lang, "pieces")

    def ids(self, text: str, lang: str | None) -> list[int]:
        """Return the ids of the pieces of a text.

        Raises:
            LanguageError: The preset cannot divide text of this language into words.
            DependencyError: The word segmenter of the language is not installed.
        """
        return self._values(text, lang, "ids")

    def spans(self, text: str, lang: str | None) -> list[Span]:
        """Return the span of each piece of a text.

        Raises:
            LanguageError: The preset cannot divide text of this language into words.
            DependencyError: The word segmenter of the language is not installed, or returns a word not in the text.
        """
        if lang is not None and lang not in LANGUAGES and _SIMPLE(text):
            spans = self._spans_in_order(text, lang)
            if spans is not None:
                return spans
        return [token.span for token in self._with_cached_words(text, lang)]

    def _spans_in_order(self, text: str, lang: str) -> list[Span] | None:
        """Return the span of each piece of a simple text, or ``None`` if the pieces are not its characters."""
        shown = casefold(text) if self.plain.casefolds else text
        own = [piece.removesuffix(END_OF_WORD) for piece in self.pieces(text, lang)]
        if len(shown) != len(text) or not all(own) or "".join(own) != shown.replace(" ", ""):
            return None
        spans: list[Span] = []
        end = 0
        for piece in own:
            start = end
            while text[start] == " ":
                start += 1
            end = start + len(piece)
            spans.append((start, end))
        return spans

    def pieces_of_each(self, texts: Sequence[str], lang: str | None) -> list[list[str]]:
        """Return the pieces of each text, as ``pieces`` does for one text."""
        return self._values_of_each(texts, lang, "pieces").lists()

    def ids_of_each(self, texts: Sequence[str], lang: str | None) -> RaggedArray:
        """Return the ids of each text, as ``ids`` does for one text."""
        return self._values_of_each(texts, lang, "ids")

    def lists_of_ids(self, rows: RaggedArray) -> list[list[int]]:
        """Return rows of ids as lists."""
        if self._id_objects is None:  # all lists share the ints, which saves memory
            import numpy as np

            self._id_objects = np.fromiter(sorted(self.plain.ids.values()), object, len(self.plain.ids))
        return rows.lists(self._id_objects)

    def _values(self, text: str, lang: str | None, output: str) -> list[Any]:
        segmenter = self._segmenter(output, lang or DEFAULT_LANGUAGE)
        if lang is not None:
            return segmenter(text)
        added = self.plain.added
        if self.plain.preset.lowers_first and self.plain.casefolds:
            text = added.lower(text)
        if not added.stand_in(text):
            return segmenter(text) if text else []
        result: list[Any] = []
        for part, is_token in added.split(text):
            if not is_token:
                result += segmenter(part)
            else:
                result.append(part if output == "pieces" else self.plain.ids[part])
        return result

    def _values_of_each(self, texts: Sequence[str], lang: str | None, output: str) -> RaggedArray:
        from xlm.tokenizer.fast.arrays import RaggedArray

        language = lang or DEFAULT_LANGUAGE
        segmenter = self._segmenter(output, language)
        dtype = "object" if output == "pieces" else "int32"
        if not isinstance(segmenter, Segmenter) or sum(map(len, texts)) <= _FEW:
            return RaggedArray.of([self._values(text, lang, output) for text in texts], dtype)
        at_once = self._batch_segmenter(output, language, segmenter)
        if lang is not None:
            return at_once(texts)
        added = self.plain.added
        lowers = self.plain.preset.lowers_first and self.plain.casefolds
        lowered = [added.lower(text) for text in texts] if lowers else texts
        if not added.stand_in("\n".join(lowered)):
            return at_once(lowered)
        is_special = [*map(added.stand_in, lowered)]
        plain = at_once([text for text, special in zip(lowered, is_special, strict=True) if not special])
        rows = iter(plain.lists())
        return RaggedArray.of(
            [
                self._values(text, lang, output) if special else next(rows)
                for text, special in zip(texts, is_special, strict=True)
            ],
            dtype,
        )

    def _segmenter(self, output: str, language: str) -> Callable[[str], list[Any]]:
        segmenter = self._segmenters.get((output, language))
        if segmenter is not None:
            return segmenter
        if len(self._segmenters) >= _MAX_SEGMENTERS:
            self._clear()
        if language in LANGUAGES:
            segmenter = self._segmented(output, language)
        else:
            segmenter = Segmenter(
                moses(self.plain.preset.dialect, language),
                casefolds=self.plain.casefolds,
                of_word=self._bpe.split if output == "pieces" else self._bpe.ids,
                budget=self._budget,
            )
        self._segmenters[output, language] = segmenter
        return segmenter

    def _batch_segmenter(self, output: str, language: str, segmenter: Segmenter[Any]) -> BatchSegmenter:
        from xlm.tokenizer.fast.batch_bpe import BatchWords
        from xlm.tokenizer.fast.batch_segmenter import BatchSegmenter

        if output not in self._batch_words:  # one table for all languages, because it is large
            of_pieces = iter if output == "pieces" else self._bpe.ids_of_pieces
            of_word = self._bpe.split if output == "pieces" else self._bpe.ids
            dtype = "object" if output == "pieces" else "int32"
            self._batch_words[output] = BatchWords(self._plain_bpe, of_word=of_word, of_pieces=of_pieces, dtype=dtype)
        if (output, language) not in self._batch_segmenters:
            self._batch_segmenters[output, language] = BatchSegmenter(segmenter, self._batch_words[output])
        return self._batch_segmenters[output, language]

    def _segmented(self, output: str, language: str) -> Callable[[str], list[Any]]:
        """Return a function from a text to its pieces or ids, for a language with a word segmenter."""
        segmenter = WordSegmenter(moses(self.plain.preset.dialect, language))

        def values(text: str) -> list[Any]:
            words = segmenter.words(text)
            if self.plain.casefolds:
                words = [part for word in lowercase_and_remove_accent(words) for part in word.split(" ") if part]
            # As in the specification, a piece is split at a space.
            pieces = [piece for word in words for piece in " ".join(self._bpe.split(word)).split(" ")]
            return pieces if output == "pieces" else [*self._bpe.ids_of_pieces(pieces)]

        return values
