"""Where each piece of a text came from: character spans of the raw text, exact through every rewriting.

A piece takes the characters its own came from. What the rules added takes the span of what it was added for; what they
dropped, such as control characters and accents, goes to the piece before it, or to the first if there is none. So the
spans, in the order of the pieces, begin no earlier than the one before and leave out no character but spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from xlm.tokenizer.folding import fold_characters
from xlm.tokenizer.rules import AlignedText, Span
from xlm.tokenizer.vocabulary import END_OF_WORD


def folded(word: AlignedText) -> AlignedText:
    """Returns an aligned word in lower case and without accents, an accent's span joined to its letter's."""
    characters: list[str] = []
    spans: list[Span] = []
    for character, place in fold_characters(word.text):
        characters.append(character)
        spans.append(word.spans[place])
    return AlignedText("".join(characters), spans)


def spans_of_pieces(word: AlignedText, pieces: Sequence[str]) -> list[Span]:
    """Returns the spans of the pieces that a word was split into."""
    spans: list[Span] = []
    place = 0
    for i, piece in enumerate(pieces):
        length = len(piece) - (len(END_OF_WORD) if i == len(pieces) - 1 else 0)
        spans.append(word.span(place, place + length))
        place += length
    return spans


def in_order_and_complete(text: str, spans: Sequence[Span]) -> list[Span]:
    """Returns spans of which none begins before the one before it, and that cover all of a text but its spaces.

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
    """Returns for each span the number of the word of the raw text, counted from 0, in which it begins.

    A word is what stands between spaces of any kind.
    """
    number, place = -1, 0
    inside = False
    numbers: list[int] = []
    for start, end in spans:
        # a span may begin at a space, where a space was rewritten with what follows it
        while place <= start or (not inside and place < end):
            if place >= len(text):
                break
            space = text[place].isspace()
            if not space and not inside:
                number += 1
            inside = not space
            place += 1
        numbers.append(max(number, 0))
    return numbers
