"""Character spans: the place in the raw text that each piece came from, tracked through all rewriting.

The span of a piece covers the characters that it was made from. Text that a rule inserts has the span of the text that
it replaces. Text that a rule drops, such as a control character or an accent, belongs to the piece before it, or to the
first piece. So the spans of a text are in order, and together they cover every character except spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from xlm.tokenizer.vocabulary import END_OF_WORD

Span = tuple[int, int]
"""The index of the first character in the raw text, and the index after the last character."""

Piece = tuple[str, int, int]
"""Text that a rule writes, and the start and end of the input that it comes from."""

_end_of = itemgetter(1)


@dataclass(frozen=True, slots=True)
class AlignedText:
    """A text with the span of raw text that each of its characters came from.

    Attributes:
        text: The text as rewritten so far.
        spans: One span for each character.
    """

    text: str
    spans: list[Span]

    @classmethod
    def of(cls, raw: str) -> AlignedText:
        """Return a raw text, aligned with itself."""
        return cls(raw, [(i, i + 1) for i in range(len(raw))])

    def from_pieces(self, pieces: Iterable[Piece]) -> AlignedText:
        """Join pieces to a text; each piece is the rewritten form of a part of this text.

        A piece that equals its part keeps the spans of the part's characters. In any other piece, each character has
        the span of the whole part.
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
        """Return the span of raw text that a range of this text came from.

        An empty range has the span of the character before it, or of the character after it at the start of the text.
        """
        end = len(self.text) if end is None else end
        if start == end:
            start = max(start - 1, 0)
            end = min(start + 1, len(self.spans))
        spans = self.spans[start:end]
        return (min(spans)[0], max(map(_end_of, spans))) if spans else (0, 0)

    def slice(self, start: int, end: int) -> AlignedText:
        """Return a range of this text, with its spans."""
        return AlignedText(self.text[start:end], self.spans[start:end])

    def split(self, space: str = r"\s") -> list[AlignedText]:
        r"""Return the non-empty parts of this text between spaces.

        Args:
            space: The separator: any whitespace, or one character.
        """
        return [self.slice(*match.span()) for match in re.finditer(rf"[^{space}]+", self.text)]

    def spans_of(self, pieces: Sequence[str]) -> list[Span]:
        """Return the raw span of each piece of this word; the last piece ends in ``</w>``."""
        spans: list[Span] = []
        position = 0
        for i, piece in enumerate(pieces):
            length = len(piece) - (len(END_OF_WORD) if i == len(pieces) - 1 else 0)
            spans.append(self.span(position, position + length))
            position += length
        return spans


def in_order_and_complete(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return spans extended so that they are in order and cover all of a text except spaces.

    Args:
        text: The raw text.
        spans: The span of each piece, in the order of the pieces.
    """
    result: list[Span] = []
    done = 0  # the index where the text covered so far ends
    for start, end in spans:
        while done < start and text[done].isspace():
            done += 1
        if done < start:  # a rule has dropped the text before this span
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
    """Return the number of the word in which each span begins, counted from 0.

    Words are separated by whitespace in the raw text.
    """
    number, position = -1, 0
    inside = False
    numbers: list[int] = []
    for start, end in spans:
        # A span begins at a space if a rule rewrote a space together with the text after it.
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
