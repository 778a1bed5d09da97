"""Where each piece of a text came from: exact character spans of the raw text, through every rewriting.

A piece has the span of the characters that it is made of. What a rule adds has the span of what it was added for. What
a rule drops, such as a control character or an accent, belongs to the piece before it, or to the first if there is
none. So the spans of a text's pieces never go back, and they leave out no character but spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xlm.tokenizer.vocabulary import END_OF_WORD

Span = tuple[int, int]
"""A stretch of the raw text: its first character, and one past its last."""

Piece = tuple[str, int, int]
"""Text that a rule writes, and the range of its input (start, end) that this text comes from."""


@dataclass(frozen=True, slots=True)
class AlignedText:
    """A text and, for each of its characters, the span of raw text that it came from.

    Attributes:
        text: The text as rewritten so far.
        spans: One span a character.
    """

    text: str
    spans: list[Span]

    @classmethod
    def of(cls, raw: str) -> AlignedText:
        """Return a raw text, in which each character comes from itself."""
        return cls(raw, [(i, i + 1) for i in range(len(raw))])

    def from_pieces(self, pieces: Iterable[Piece]) -> AlignedText:
        """Return the text made of pieces of this one.

        A piece that equals its range keeps the range's spans; each character of any other has the span of the whole
        range.
        """
        texts: list[str] = []
        spans: list[Span] = []
        for text, start, end in pieces:
            texts.append(text)
            if self.text[start:end] == text:
                spans += self.spans[start:end]
            elif text:
                spans += [self.span(start, end)] * len(text)
        return AlignedText("".join(texts), spans)

    def span(self, start: int = 0, end: int | None = None) -> Span:
        """Return the raw span of a range; of an empty one, that of the character before it, or else after it."""
        end = len(self.text) if end is None else end
        if start == end:
            start = max(start - 1, 0)
            end = min(start + 1, len(self.spans))
        some = self.spans[start:end]
        return (min(first for first, _ in some), max(last for _, last in some)) if some else (0, 0)

    def slice(self, start: int, end: int) -> AlignedText:
        """Return the text of a range."""
        return AlignedText(self.text[start:end], self.spans[start:end])

    def split(self, space: str = r"\s") -> list[AlignedText]:
        r"""Return the parts between spaces, none of them empty.

        Args:
            space: What divides parts: whitespace of any kind, or one character.
        """
        return [self.slice(*match.span()) for match in re.finditer(rf"[^{space}]+", self.text)]

    def spans_of(self, pieces: Sequence[str]) -> list[Span]:
        """Return the raw span of each piece that this word was split into; the last piece ends in ``</w>``."""
        spans: list[Span] = []
        position = 0
        for i, piece in enumerate(pieces):
            length = len(piece) - (len(END_OF_WORD) if i == len(pieces) - 1 else 0)
            spans.append(self.span(position, position + length))
            position += length
        return spans


def in_order_and_complete(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return spans that never go back and that cover all of a text but its spaces.

    Args:
        text: The raw text.
        spans: One a piece, in the order of the pieces.
    """
    result: list[Span] = []
    done = 0  # up to where the text is covered
    for start, end in spans:
        while done < start and text[done].isspace():
            done += 1
        if done < start:  # something was dropped here
            if result:
                dropped_end = done + len(text[done:start].rstrip())
                result[-1] = (result[-1][0], max(result[-1][1], dropped_end))
            else:
                start = done
        if result:
            start = max(start, result[-1][0])
        result.append((start, max(start, end)))
        done = max(done, end)
    if result and (dropped_end := len(text.rstrip())) > done:
        result[-1] = (result[-1][0], max(result[-1][1], dropped_end))
    return result


def word_numbers(text: str, spans: Sequence[Span]) -> list[int]:
    """Return for each span the number of the word in which it begins, counted from 0.

    A word is what stands between whitespace in the raw text.
    """
    number, position = -1, 0
    inside = False
    numbers: list[int] = []
    for start, end in spans:
        # A span begins at a space where a space was rewritten together with what follows it.
        while position <= start or (not inside and position < end):
            if position >= len(text):
                break
            space = text[position].isspace()
            if not space and not inside:
                number += 1
            inside = not space
            position += 1
        numbers.append(max(number, 0))
    return numbers
