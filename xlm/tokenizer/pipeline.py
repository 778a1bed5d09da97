"""How a text becomes pieces and ids: the specification.

    raw text
      → lower case                  preset "transformers-v4" without a language; except special tokens
      → special and added tokens    split off if no language is given
      → words                       Moses' rules; a word segmenter for Chinese, Japanese and Thai
      → lower case, no accents      if do_lowercase_and_remove_accent
      → pieces                      byte-pair encoding
      → ids                         the vocabulary

Each step also tracks the span of raw text that every character came from. ``fast/`` computes the same pieces and ids
faster, and the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xlm.tokenizer.added_tokens import AddedTokens
from xlm.tokenizer.alignment import AlignedText, Span, in_order_and_complete
from xlm.tokenizer.casefold import casefolded
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.word_segmenters import LANGUAGES, WordSegmenter

DEFAULT_LANGUAGE = "en"
"""The language whose rules apply to a text without a language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The settings of a text pipeline.

    Attributes:
        dialect: The dialect of Moses' rules, one of ``moses.tokenise.DIALECTS``.
        lang_required: Whether a text needs a language.
        lowers_first: Whether a text without a language is lower-cased before Moses' rules too, not only after them.
        limits_pieces: Whether a merged piece that is not in the vocabulary is split back into its two parts.
        do_lowercase_and_remove_accent: The default of the tokenizer's setting of that name.
        bos_token: The default of the tokenizer's setting of that name.
    """

    dialect: str
    lang_required: bool = False
    lowers_first: bool = False
    limits_pieces: bool = False
    do_lowercase_and_remove_accent: bool = True
    bos_token: str = "<s>"


PRESETS = {
    "transformers": Preset(dialect="sacremoses"),
    "transformers-v4": Preset(dialect="sacremoses", lowers_first=True),
    "original": Preset(
        dialect="perl",
        lang_required=True,
        limits_pieces=True,
        do_lowercase_and_remove_accent=False,
        bos_token="</s>",
    ),
}
"""The presets by name. The sources of the first two are ``XLMTokenizer`` of transformers 5.x and of 4.57."""


class Token(NamedTuple):
    """A piece of a text, its id, and the span of raw text that it came from."""

    piece: str
    id: int
    span: Span


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Maps a text to its tokens.

    Attributes:
        preset: The settings.
        bpe: Splits a word into pieces: ``BPE.split``.
        ids: The id of each piece of the vocabulary.
        unk_id: The id of every other piece.
        casefolds: Whether words are put into lower case without accents.
        added: The tokens at which a text is split if no language is given.
    """

    preset: Preset
    bpe: Callable[[str], Sequence[str]]
    ids: Mapping[str, int]
    unk_id: int
    casefolds: bool
    added: AddedTokens

    def __call__(self, text: str, lang: str | None) -> list[Token]:
        """Return the tokens of a text.

        Raises:
            LanguageError: The preset cannot divide text of this language into words.
            DependencyError: The word segmenter of the language is not installed.
        """
        source = AlignedText.of(text)
        parts = [(source, False)]
        if lang is None:
            if self.preset.lowers_first and self.casefolds:
                source = self.added.lower_aligned(source)
            parts = self.added.split_aligned(source)
        pieces: list[tuple[str, Span]] = []
        for part, is_token in parts:
            pieces += [(part.text, part.span())] if is_token else self._pieces(part, lang or DEFAULT_LANGUAGE)
        spans = in_order_and_complete(text, [span for _, span in pieces])
        return [
            Token(piece, self.ids.get(piece, self.unk_id), span) for (piece, _), span in zip(pieces, spans, strict=True)
        ]

    def _pieces(self, text: AlignedText, lang: str) -> Iterator[tuple[str, Span]]:
        for word in self._words(text, lang):
            for part in casefolded(word).split(" ") if self.casefolds else [word]:
                pieces = self.bpe(part.text) if part.text else ()
                for piece, span in zip(pieces, part.spans_of(pieces), strict=True):
                    # A word from a segmenter may contain a space. As in transformers, a piece is split at a space.
                    yield from ((one, span) for one in piece.split(" "))

    def _words(self, text: AlignedText, lang: str) -> list[AlignedText]:
        rules = moses(self.preset.dialect, lang)
        return WordSegmenter(rules).aligned_words(text) if lang in LANGUAGES else rules.aligned_words(text)
