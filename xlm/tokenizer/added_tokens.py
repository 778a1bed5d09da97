"""Tokens of the vocabulary that are recognised in a text as they stand, with their options.

The special tokens are such tokens, without options. Further ones, and options, come from a saved tokenizer to which
``add_tokens`` of transformers was applied. Where the text has a language none of this counts: all text is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token that is recognised in a text as it stands, with the options that it has in transformers.

    Attributes:
        content: The token.
        lstrip: Whether the spaces before it belong to it.
        rstrip: Whether the spaces after it belong to it.
        single_word: Whether it counts only between spaces.
        normalized: Whether the preset ``"transformers-v4"`` finds it before it lower-cases a text.
        special: Whether transformers says that it is special.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True
    special: bool = False

    @property
    def has_options(self) -> bool:
        """Whether it is recognised otherwise than wherever it stands."""
        return self.lstrip or self.rstrip or self.single_word


class AddedTokens:
    """Divides texts at tokens.

    Args:
        tokens: All that are recognised, by their text.
        before_lowering: Those of them that are recognised before a text is lower-cased.
    """

    def __init__(self, tokens: Mapping[str, AddedToken], before_lowering: Iterable[str]) -> None:
        self._tokens = {content: token for content, token in tokens.items() if content}
        # The longest first: one may begin with another.
        self._pattern = _pattern(sorted(self._tokens, key=len, reverse=True))
        self._before_lowering = _pattern(filter(None, before_lowering))
        self._first_characters = {content[0] for content in self._tokens}

    def stand_in(self, text: str) -> bool:
        """Return whether a token stands in a text."""
        # The first characters are quickly found not to be there.
        return any(map(text.__contains__, self._first_characters)) and self._pattern.search(text) is not None

    def between_tokens(self, text: str) -> list[str]:
        """Return the parts of a text that is to be lower-cased: what stands between tokens, and these, in turn."""
        return self._before_lowering.split(text)

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Return the parts of a text, each with whether it is a token; spaces that belong to tokens are left out.

        Source: ``PreTrainedTokenizer.tokenize`` of transformers, whose options act one after the other from left to
        right, on what those before them have left.
        """
        parts = [part for part in self._pattern.split(text) if part]
        for place, part in enumerate(parts):
            token = self._tokens.get(part)
            if token is None or not token.has_options:
                continue
            before = parts[place - 1] if place else ""
            after = parts[place + 1] if place + 1 < len(parts) else ""
            if token.rstrip and after:
                parts[place + 1] = after.lstrip()
            if token.lstrip and before:
                parts[place - 1] = before.rstrip()
            if token.single_word:
                if before and before[-1] != " ":
                    parts[place - 1] += part
                    parts[place] = ""
                elif after and after[0] != " ":
                    parts[place + 1] = part + parts[place + 1]
                    parts[place] = ""
        return [(part, part in self._tokens) for part in parts if part]


def _pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    # Without tokens: one that never matches.
    return re.compile(f"({'|'.join(map(re.escape, tokens)) or '(?!)'})")
