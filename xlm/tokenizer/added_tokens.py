"""Special and added tokens. A text that is encoded without a language is split at these tokens.

A tokenizer has added tokens, or options of tokens, only if transformers saved it after a call of ``add_tokens``. A text
that is encoded with a language is not split at tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xlm.tokenizer.alignment import AlignedText, Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token at which a text is split, with its options in transformers.

    Attributes:
        content: The text of the token.
        lstrip: Whether the token includes the spaces before it.
        rstrip: Whether the token includes the spaces after it.
        single_word: Whether a text is split at the token only where a space or an end of the text is on both sides.
        normalized: Whether the token keeps its case when the preset ``"transformers-v4"`` lower-cases a text. It has no
            effect if ``special`` is set.
        special: Whether transformers calls the token special.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True
    special: bool = False

    @property
    def has_options(self) -> bool:
        """Whether the token has an option that affects where a text is split."""
        return self.lstrip or self.rstrip or self.single_word


class AddedTokens:
    """The tokens at which a tokenizer splits texts.

    Args:
        tokens: The tokens by their text.
        before_lowering: The tokens that keep their case when a text is lower-cased.
    """

    def __init__(self, tokens: Mapping[str, AddedToken], before_lowering: Iterable[str]) -> None:
        self._tokens = {content: token for content, token in tokens.items() if content}
        # Try the longest token first, since a token may begin with another one.
        self._pattern = _pattern(sorted(self._tokens, key=len, reverse=True))
        self._before_lowering = _pattern(filter(None, before_lowering))
        self._first_characters = {content[0] for content in self._tokens}

    def stand_in(self, text: str) -> bool:
        """Return whether a text contains a token."""
        # Check the first characters of the tokens first: that is fast, and most texts contain none of them.
        return any(map(text.__contains__, self._first_characters)) and self._pattern.search(text) is not None

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Split a text at its tokens, and return each part with whether it is a token.

        The parts omit the spaces that ``lstrip`` and ``rstrip`` remove. As in transformers, the options of the tokens
        are applied from left to right, and each option acts on the parts as earlier options changed them.

        Source: ``PreTrainedTokenizer.tokenize`` of transformers.
        """
        parts = [part for part in self._pattern.split(text) if part]
        for position, part in enumerate(parts):
            token = self._tokens.get(part)
            if token is None or not token.has_options:
                continue
            before = parts[position - 1] if position else ""
            after = parts[position + 1] if position + 1 < len(parts) else ""
            if token.rstrip and after:
                parts[position + 1] = after.lstrip()
            if token.lstrip and before:
                parts[position - 1] = before.rstrip()
            if token.single_word:
                if before and before[-1] != " ":
                    parts[position - 1] += part
                    parts[position] = ""
                elif after and after[0] != " ":
                    parts[position + 1] = part + parts[position + 1]
                    parts[position] = ""
        return [(part, part in self._tokens) for part in parts if part]

    def split_aligned(self, source: AlignedText) -> list[tuple[AlignedText, bool]]:
        """Split an aligned text as ``split`` splits a str."""
        result: list[tuple[AlignedText, bool]] = []
        position = 0
        for part, is_token in self.split(source.text):
            spans = []
            for character in part:  # the parts hold the text in order, except that some spaces are missing
                position = source.text.index(character, position) + 1
                spans.append(source.spans[position - 1])
            result.append((AlignedText(part, spans), is_token))
        return result

    def lower(self, text: str) -> str:
        """Lower-case a text outside its tokens, one character at a time as transformers 4 does."""
        parts = self._before_lowering.split(text)
        parts[::2] = [
            part.lower() if part.isascii() else "".join(character.lower() for character in part) for part in parts[::2]
        ]
        return "".join(parts)

    def lower_aligned(self, source: AlignedText) -> AlignedText:
        """Lower-case an aligned text as ``lower`` does a str."""
        pieces: list[Piece] = []
        position = 0
        for i, part in enumerate(self._before_lowering.split(source.text)):
            if i % 2:
                pieces.append((part, position, position + len(part)))
            else:
                pieces += [(character.lower(), position + j, position + j + 1) for j, character in enumerate(part)]
            position += len(part)
        return source.from_pieces(pieces)


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    # Without tokens, this pattern never matches.
    return re.compile(f"({'|'.join(map(re.escape, tokens)) or '(?!)'})")
