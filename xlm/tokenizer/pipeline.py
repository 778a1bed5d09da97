"""From a text to its pieces or their ids: the choices of a preset, and what is remembered for each language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from xlm.errors import LanguageError
from xlm.tokenizer import dividers
from xlm.tokenizer.added_tokens import AddedTokens
from xlm.tokenizer.batch_segmenter import BatchSegmenter
from xlm.tokenizer.batch_words import BatchWords
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.folding import lowercase_and_remove_accent
from xlm.tokenizer.moses import Moses, moses
from xlm.tokenizer.presets import Preset
from xlm.tokenizer.remembered import Memory
from xlm.tokenizer.rules import AlignedText, Piece, Span
from xlm.tokenizer.spans import folded, in_order_and_complete, spans_of_pieces

if TYPE_CHECKING:
    from xlm.tokenizer.batch_arrays import Array
    from xlm.tokenizer.rows import Rows

_REMEMBERED = 256
"""Languages, and kinds of results, whose chunks are remembered; with one more all are forgotten.

Enough for pieces and ids of a hundred languages in turn. Each takes 300 KB for its rules and tables, so all of them
80 MB at most; the results are bounded for all together (``remembered.MOST``).
"""

_WITHOUT_LANG = "en"
"""Whose rules a text gets whose language is not given."""


class Pipeline:
    """Divides texts into pieces as a preset says.

    Args:
        preset: The choices.
        bpe: Splits words into pieces.
        ids: The id of each piece.
        fold_words: Whether words are put into lower case without accents.
        unk_id: The id of a piece that is not among ``ids``.
        added: The tokens that are recognised where a text's language is not given.
    """

    def __init__(
        self,
        preset: Preset,
        bpe: BPE,
        ids: Mapping[str, int],
        *,
        fold_words: bool,
        unk_id: int,
        added: AddedTokens,
    ) -> None:
        self._preset = preset
        self._bpe = bpe
        self._ids = ids
        self._fold_words = fold_words
        self._unk_id = unk_id
        self._added = added
        self._id_objects: Array | None = None
        self._segmenters: dict[tuple[str, str], Callable[[str], list[Any]]] = {}
        self._words_at_once: dict[str, BatchWords[Any]] = {}
        self._memory = Memory()

    def __getstate__(self) -> dict[str, Any]:
        # What they remember is soon back, and rules cannot be pickled.
        return self.__dict__ | {"_segmenters": {}, "_words_at_once": {}, "_memory": Memory(), "_id_objects": None}

    def pieces(self, text: str, lang: str | None) -> list[str]:
        """Returns the pieces of a text, whether or not they have an id.

        Raises:
            LanguageError: The preset does not say how to divide the language into words.
            DependencyError: The library that does is not installed.
        """
        return self._run(text, lang, "pieces", lambda token: token)

    def ids(self, text: str, lang: str | None) -> list[int]:
        """Returns the ids of the pieces of a text.

        Raises:
            LanguageError: The preset does not say how to divide the language into words.
            DependencyError: The library that does is not installed.
        """
        return self._run(text, lang, "ids", lambda token: self._ids.get(token, self._unk_id))

    def ids_of_each(self, texts: Sequence[str], lang: str | None) -> Rows:
        """Returns the ids of the pieces of each text, the same as ``ids`` of each.

        Raises:
            LanguageError: The preset does not say how to divide the language into words.
            DependencyError: The library that does is not installed.
        """
        return self._run_each(texts, lang, "ids", self.ids)

    def lists_of_ids(self, rows: Rows) -> list[list[int]]:
        """Returns rows of ids as lists."""
        if self._id_objects is None:  # shared by all lists: less memory than a new int for each id, and faster
            import numpy as np

            self._id_objects = np.fromiter(range(len(self._ids)), object, len(self._ids))
        return rows.lists(self._id_objects)

    def pieces_of_each(self, texts: Sequence[str], lang: str | None) -> list[list[str]]:
        """Returns the pieces of each text, the same as ``pieces`` of each.

        Raises:
            LanguageError: The preset does not say how to divide the language into words.
            DependencyError: The library that does is not installed.
        """
        return self._run_each(texts, lang, "pieces", self.pieces).lists()

    def _run_each(
        self, texts: Sequence[str], lang: str | None, kind: str, of_text: Callable[[str, str | None], list[Any]]
    ) -> Rows:
        from xlm.tokenizer.rows import Rows

        segmenter = self._find_segmenter(kind, lang)
        dtype = "object" if kind == "pieces" else "int32"
        if not isinstance(segmenter, BatchSegmenter):
            return Rows.of([of_text(text, lang) for text in texts], dtype)
        if lang is not None:
            return segmenter.of_texts(texts)
        lowers = self._preset.lowers_first and self._fold_words
        seen = [self._lowered(text) for text in texts] if lowers else texts
        if not self._added.stand_in("\n".join(seen)):
            return segmenter.of_texts(seen)
        is_special = [*map(self._added.stand_in, seen)]
        plain = segmenter.of_texts([text for text, special in zip(seen, is_special, strict=True) if not special])
        rows = iter(plain.lists())
        return Rows.of(
            [of_text(text, lang) if special else next(rows) for text, special in zip(texts, is_special, strict=True)],
            dtype,
        )

    def spans(self, text: str, lang: str | None) -> list[tuple[str, Span]]:
        """Returns the pieces of a text, each with the span of the text it came from.

        Raises:
            LanguageError: The preset does not say how to divide the language into words.
            DependencyError: The library that does is not installed.
        """
        rules = moses(self._preset.dialect, lang or _WITHOUT_LANG)
        if rules.language in dividers.LANGUAGES:
            return self._with_order(text, self._divided_pieces(self._divider(rules), AlignedText.of(text)))
        if lang is not None:
            return self._with_order(text, self._aligned_pieces(rules, AlignedText.of(text)))
        source = AlignedText.of(text)
        if self._preset.lowers_first and self._fold_words:
            source = self._lowered_aligned(source)
        if not self._added.stand_in(source.text):
            return self._with_order(text, self._aligned_pieces(rules, source))
        found: list[tuple[str, Span]] = []
        place = 0
        for part, is_token in self._added.split(source.text):
            spans: list[Span] = []
            for character in part:  # only spaces are left out between them
                place = source.text.index(character, place) + 1
                spans.append(source.spans[place - 1])
            aligned = AlignedText(part, spans)
            found += [(part, aligned.span(0, len(part)))] if is_token else self._aligned_pieces(rules, aligned)
        return self._with_order(text, found)

    @staticmethod
    def _with_order(text: str, found: list[tuple[str, Span]]) -> list[tuple[str, Span]]:
        ordered = in_order_and_complete(text, [span for _, span in found])
        return [(piece, span) for (piece, _), span in zip(found, ordered, strict=True)]

    def _aligned_pieces(self, rules: Moses, source: AlignedText) -> list[tuple[str, Span]]:
        found: list[tuple[str, Span]] = []
        for word in rules.aligned_words(source):
            if self._fold_words:
                word = folded(word)
                if not word.text:
                    continue
            pieces = self._bpe(word.text)
            found += zip(pieces, spans_of_pieces(word, pieces), strict=True)
        return found

    def _divided_pieces(self, divider: dividers.Divider, source: AlignedText) -> list[tuple[str, Span]]:
        found: list[tuple[str, Span]] = []
        for word in divider.aligned_words(source):
            for part in _between_spaces(folded(word)) if self._fold_words else [word]:
                pieces = self._bpe(part.text) if part.text else []
                for piece, span in zip(pieces, spans_of_pieces(part, pieces), strict=True):
                    found += [(one, span) for one in piece.split(" ")]
        return found

    def _lowered_aligned(self, source: AlignedText) -> AlignedText:
        pieces: list[Piece] = []
        place = 0
        for i, part in enumerate(self._added.between_tokens(source.text)):
            if i % 2:
                pieces.append((part, place, place + len(part)))
            else:
                pieces += [(character.lower(), place + j, place + j + 1) for j, character in enumerate(part)]
            place += len(part)
        return source.from_pieces(pieces)

    def _run(self, text: str, lang: str | None, kind: str, of_token: Callable[[str], Any]) -> list[Any]:
        segmenter = self._find_segmenter(kind, lang)
        if lang is not None:
            return segmenter(text)
        if self._preset.lowers_first and self._fold_words:
            text = self._lowered(text)
        if not self._added.stand_in(text):
            return segmenter(text) if text else []
        result: list[Any] = []
        for part, is_token in self._added.split(text):
            result += [of_token(part)] if is_token else segmenter(part)
        return result

    def _lowered(self, text: str) -> str:
        """Returns a text in lower case, letter by letter as transformers 4 does it, but for its special tokens."""
        parts = self._added.between_tokens(text)
        parts[::2] = [
            part.lower() if part.isascii() else "".join(character.lower() for character in part) for part in parts[::2]
        ]
        return "".join(parts)

    def _find_segmenter(self, kind: str, lang: str | None) -> Callable[[str], list[Any]]:
        language = lang or _WITHOUT_LANG
        return self._segmenters.get((kind, language)) or self._segmenter(kind, language)

    def _segmenter(self, kind: str, language: str) -> Callable[[str], list[Any]]:
        if len(self._segmenters) >= _REMEMBERED:
            self._segmenters, self._memory = {}, Memory()
        of_word = self._bpe.split if kind == "pieces" else self._ids_of_word
        rules = moses(self._preset.dialect, language)
        made: Callable[[str], list[Any]]
        if language not in dividers.LANGUAGES:
            made = BatchSegmenter(
                rules,
                fold_words=self._fold_words,
                of_word=of_word,
                of_words=self._batch_words(kind, of_word),
                memory=self._memory,
            )
        else:
            made = self._dividing(self._divider(rules), kind)
        self._segmenters[kind, language] = made
        return made

    def _divider(self, rules: Moses) -> dividers.Divider:
        if self._preset.dialect == "perl":
            raise LanguageError(
                "This preset cannot divide the language into words",
                where="lang",
                found=rules.language,
                expected=f"a language other than {', '.join(dividers.LANGUAGES)}",
                remedy="open the tokenizer with preset='transformers'",
            )
        return dividers.Divider(rules)

    def _batch_words(self, kind: str, of_word: Callable[[str], Sequence[Any]]) -> BatchWords[Any]:
        """Returns what splits many words, one for all languages since its tables are large."""
        if kind not in self._words_at_once:
            self._words_at_once[kind] = BatchWords(
                self._bpe,
                self._ids,
                of_word=of_word,
                of_pieces=iter if kind == "pieces" else self._ids_of_pieces,
                unknown=None if kind == "pieces" else self._unk_id,
            )
        return self._words_at_once[kind]

    def _dividing(self, divider: dividers.Divider, kind: str) -> Callable[[str], list[Any]]:
        def divided(text: str) -> list[Any]:
            words = divider.words(text)
            if self._fold_words:
                words = [part for word in lowercase_and_remove_accent(words) for part in word.split(" ") if part]
            # A word can be a space or hold one here, and transformers joins and divides its pieces at spaces.
            pieces = [piece for word in words for piece in " ".join(self._bpe.split(word)).split(" ")]
            return pieces if kind == "pieces" else [self._ids.get(piece, self._unk_id) for piece in pieces]

        return divided

    def _ids_of_word(self, word: str) -> Sequence[int]:
        return tuple(self._ids_of_pieces(self._bpe.split(word)))

    def _ids_of_pieces(self, pieces: Iterable[str]) -> Iterator[int]:
        return map(self._ids.get, pieces, repeat(self._unk_id))


def _between_spaces(word: AlignedText) -> Iterator[AlignedText]:
    for match in re.finditer("[^ ]+", word.text):
        yield AlignedText(match[0], word.spans[match.start() : match.end()])
