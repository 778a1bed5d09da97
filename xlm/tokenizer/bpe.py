"""Byte-pair encoding: merges, their two file formats, and the pieces of a word.

A line of ``merges.txt`` of transformers holds ``left right``, a line of fastBPE's codes ``left right count``. Both
write pieces the same way (``</w>`` ends a word), so the published ``codes_ende`` and ``merges.txt`` hold the same
merges.

Source: Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Container, Sequence
from pathlib import Path

from xlm._io.arguments import shown
from xlm._io.atomic import write_text
from xlm.errors import VocabularyError
from xlm.tokenizer.text_files import at_line, count_of, read_lines
from xlm.tokenizer.vocabulary import END_OF_WORD, SPECIAL_TOKENS, Vocabulary

Merges = tuple[tuple[str, str], ...]
"""Pairs of pieces, best first, in ``</w>`` notation."""


class BPE:
    """Splits words into pieces. Each step merges the best pair wherever it occurs, from left to right.

    Args:
        merges: Pairs of pieces, best first, in ``</w>`` notation.
        vocabulary: If given, a merged piece that is not in the vocabulary is split back into the two parts that it was
            merged from; these parts are then checked in the same way.
            Source: fastBPE's ``applybpe`` with a vocabulary file.

    Attributes:
        merges: The argument ``merges``.
        vocabulary: The argument ``vocabulary``.
        ranks: The rank of each merge, from 0 for the best.
        piece_ranks: For each merged piece, the rank of the last merge that produces it; in the order of the ranks.
        part_ranks: For each merge, the ranks of the merges that produce its left and its right part. For a part that is
            a character, ``-1 - 2 * ord(character)``, and one less at the end of a word.
        learnt: Whether BPE learning could have produced the merges: each part of a pair is a single character or the
            result of an earlier merge, no two merges produce the same piece, and none produces a piece that looks like
            a single character at the end of a word.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], vocabulary: Container[str] | None = None) -> None:
        self.merges = merges
        self.vocabulary = vocabulary
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.piece_ranks: dict[str, int] = {}
        self.part_ranks = array("i"), array("i")
        self.learnt = True
        rank_of, (left_ranks, right_ranks) = self.piece_ranks.get, self.part_ranks
        for rank, (left, right) in enumerate(merges):
            piece = left + right
            if (left_rank := rank_of(left)) is None:
                left_rank = ~(2 * ord(left[:1] or "\0"))
                self.learnt &= len(left) == 1
            if (right_rank := rank_of(right)) is None:
                right_rank = ~(2 * ord(right[:1] or "\0") + (len(right) > 1))
                self.learnt &= len(right) == 1 or _is_last_character(right)
            left_ranks.append(left_rank)
            right_ranks.append(right_rank)
            self.learnt &= piece not in self.piece_ranks and not _is_last_character(piece)
            self.piece_ranks[piece] = rank

    def split(self, word: str) -> list[str]:
        """Return the pieces of a word, the last one ending in ``</w>``.

        Args:
            word: A word of at least one character, without whitespace.
        """
        return self.limit(self.merge(characters_of(word)))

    def merge(self, pieces: list[str]) -> list[str]:
        """Return the pieces that result from applying all merges to the adjacent pieces of a word.

        Args:
            pieces: At least one piece; the list is changed in place.
        """
        # A linked list of pieces and a heap of the pairs that can be merged: O(n log n) for n characters. A piece is
        # identified by the position of its first character. A piece that was merged into its left neighbour becomes "".
        end = len(pieces)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))
        heap: list[tuple[int, int]] = []

        def offer(left: int) -> None:
            """Push the pair that begins at ``left`` onto the heap if it can be merged."""
            if left >= 0 and following[left] < end:
                rank = self.ranks.get((pieces[left], pieces[following[left]]))
                if rank is not None:
                    heapq.heappush(heap, (rank, left))

        for position in range(end):
            offer(position)
        while heap:
            # Merge the best pair everywhere before pushing the new pairs. A new pair can have a better rank: if it were
            # pushed now, it could use up a piece that belongs to this pair further right.
            best = heap[0][0]
            merged = []
            while heap and heap[0][0] == best:
                left = heapq.heappop(heap)[1]
                right = following[left]
                # The pair no longer exists if one of its pieces was merged with the neighbour on its other side.
                if right == end or self.ranks.get((pieces[left], pieces[right])) != best:
                    continue
                pieces[left] += pieces[right]
                pieces[right] = ""
                following[left] = following[right]
                if following[left] < end:
                    preceding[following[left]] = left
                merged.append(left)
            for left in merged:
                offer(preceding[left])
                offer(left)
        return [piece for piece in pieces if piece]

    def limit(self, pieces: list[str]) -> list[str]:
        """Split pieces that are not in the vocabulary; without a vocabulary, return the pieces unchanged."""
        known = self.vocabulary
        if known is None:
            return pieces
        parts: list[str] = []
        waiting = pieces[::-1]
        while waiting:
            part = waiting.pop()
            rank = None if part in known else self.piece_ranks.get(part)
            if rank is None:  # the piece is in the vocabulary, or is a single character
                parts.append(part)
            else:
                waiting += reversed(self.merges[rank])
        return parts


def _is_last_character(piece: str) -> bool:
    return len(piece) == 1 + len(END_OF_WORD) and piece.endswith(END_OF_WORD)


def characters_of(word: str) -> list[str]:
    """Return the pieces of a word before any merge: its characters, with ``</w>`` after the last one."""
    return [*word[:-1], word[-1] + END_OF_WORD]


def read_merges(path: Path) -> Merges:
    """Return the merges in a ``merges.txt``, ignoring a first line ``#version: …`` and a third column.

    A last line that does not end in a newline is read, as in fastBPE; transformers drops it.

    Raises:
        VocabularyError: The file does not have the format of ``merges.txt``.
    """
    return _read(path, columns=(2, 3), expected="LEFT RIGHT")


def read_codes(path: Path) -> Merges:
    """Return the merges in a codes file of fastBPE.

    Raises:
        VocabularyError: The file is not a codes file.
    """
    return _read(path, columns=(3,), expected="LEFT RIGHT COUNT")


def write_merges(path: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Write a ``merges.txt`` as transformers writes it.

    Raises:
        WriteError: The file cannot be written.
    """
    write_text(path, "".join(f"{left} {right}\n" for left, right in merges))


def write_codes(path: Path, merges: Sequence[tuple[str, str]], counts: Sequence[int] | None = None) -> None:
    """Write a codes file for fastBPE; without ``counts``, write the count 0 for each merge.

    Raises:
        WriteError: The file cannot be written.
    """
    rows = zip(merges, [0] * len(merges) if counts is None else counts, strict=True)
    write_text(path, "".join(f"{left} {right} {count}\n" for (left, right), count in rows))


def check_merges(vocabulary: Vocabulary, merges: Merges, where: Path) -> None:
    """Check that a vocabulary and merges belong together.

    With the right merges, every token of a vocabulary is a single character or the result of a merge, as in all
    published pairs of files. With the merges of another model, at most 56% of the tokens of a published vocabulary are.

    Raises:
        VocabularyError: Less than 90% of the tokens are single characters or results of merges.
    """
    pieces = {left + right for left, right in merges}
    tokens = vocabulary.tokens[len(SPECIAL_TOKENS) :]
    fitting = sum(token in pieces or len(token.removesuffix(END_OF_WORD)) <= 1 for token in tokens)
    if fitting < 0.9 * len(tokens):
        raise VocabularyError(
            "the codes belong to a different model than the vocabulary",
            where=where,
            found=f"{len(merges)} merges, which produce {fitting} of the vocabulary's {len(tokens)} tokens",
            expected="merges that produce every token",
            remedy="use the codes that the model was trained with",
        )


def _read(path: Path, *, columns: tuple[int, ...], expected: str) -> Merges:
    remedy = "use the codes or merges file of the model, not its vocabulary or text"
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 and line.startswith("#version:"):
            continue
        # Only ASCII spaces separate the columns: the published codes for 15 languages merge no-break spaces.
        fields = line.split(" ")
        if len(fields) not in columns or not all(fields):
            where = at_line(path, number)
            raise VocabularyError("not a merge", where=where, found=shown(line), expected=expected, remedy=remedy)
        if len(fields) == 3:
            count_of(fields[2], path, number, remedy=remedy)
        first = lines.setdefault((fields[0], fields[1]), number)
        if first != number:
            raise VocabularyError(
                "duplicate merge",
                where=at_line(path, number),
                found=shown(line),
                expected=f"each merge once (first: line {first})",
                remedy="remove this line, which has no effect",
            )
    if not lines:
        raise VocabularyError(
            "no merges in the file", where=path, expected=expected, remedy="fetch the merges of the model again"
        )
    return tuple(lines)
