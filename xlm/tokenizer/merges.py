"""The merges of byte-pair encoding, best first, with their two file formats.

transformers' ``merges.txt`` holds ``left right`` a line, fastBPE's codes ``left right count``; the pieces are written
alike in both (``</w>`` ends a word), so that the published ``codes_ende`` and ``merges.txt`` are the same merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xlm._io.atomic import write_text
from xlm.errors import VocabularyError
from xlm.tokenizer.text_files import at_line, count_of, read_lines, shown
from xlm.tokenizer.vocabulary import END_OF_WORD, SPECIAL_TOKENS, Vocabulary

Merges = tuple[tuple[str, str], ...]


def read_merges(path: Path) -> Merges:
    """Returns the merges in a ``merges.txt``; a first line ``#version: …`` and a third column are left out.

    transformers drops a last line that does not end in a newline; here it counts, as it does in fastBPE.

    Raises:
        VocabularyError: The file is not that.
    """
    return _read(path, columns=(2, 3), expected="LEFT RIGHT")


def read_codes(path: Path) -> Merges:
    """Returns the merges in a codes file of fastBPE.

    Raises:
        VocabularyError: The file is not that.
    """
    return _read(path, columns=(3,), expected="LEFT RIGHT COUNT")


def write_merges(path: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Writes a ``merges.txt`` as transformers writes it.

    Raises:
        WriteError: The file could not be written.
    """
    write_text(path, "".join(f"{left} {right}\n" for left, right in merges))


def write_codes(path: Path, merges: Sequence[tuple[str, str]], counts: Sequence[int] | None = None) -> None:
    """Writes a codes file that fastBPE reads; unknown counts are written as 0.

    Raises:
        WriteError: The file could not be written.
    """
    rows = zip(merges, [0] * len(merges) if counts is None else counts, strict=True)
    write_text(path, "".join(f"{left} {right} {count}\n" for (left, right), count in rows))


def check_merges(vocabulary: Vocabulary, merges: Merges, where: Path) -> None:
    """Raises when a vocabulary cannot have come from these merges.

    Every token of a vocabulary is a single character or what some merge makes; of the published pairs of files all
    are, and of a published vocabulary with another model's codes at most 56 in 100.

    Raises:
        VocabularyError: Under 90 in 100 are.
    """
    made = {left + right for left, right in merges}
    tokens = vocabulary.tokens[len(SPECIAL_TOKENS) :]
    found = sum(token in made or len(token.removesuffix(END_OF_WORD)) <= 1 for token in tokens)
    if found < 0.9 * len(tokens):
        raise VocabularyError(
            "The codes are of another model than the vocabulary",
            where=where,
            found=f"{len(merges)} merges, of which {found} of the vocabulary's {len(tokens)} tokens can come",
            expected="merges of which all of them come",
            remedy="use the codes that the model was trained with",
        )


def _read(path: Path, *, columns: tuple[int, ...], expected: str) -> Merges:
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 and line.startswith("#version:"):
            continue
        # Only ASCII spaces divide the columns: the published codes for 15 languages merge no-break spaces.
        fields = line.split(" ")
        if len(fields) not in columns or not all(fields):
            raise VocabularyError(
                "A line does not hold a merge",
                where=at_line(path, number),
                found=shown(line),
                expected=expected,
                remedy="use the codes or merges file of the model, not its vocabulary or text",
            )
        if len(fields) == 3:
            count_of(fields[2], where=at_line(path, number), remedy="use the codes or merges file of the model")
        first = lines.setdefault((fields[0], fields[1]), number)
        if first != number:
            raise VocabularyError(
                "A merge stands twice in the file",
                where=at_line(path, number),
                found=shown(line),
                expected=f"each merge once (first: line {first})",
                remedy="take out the second, which can never be reached",
            )
    if not lines:
        raise VocabularyError(
            "The file holds no merges", where=path, expected=expected, remedy="fetch the merges of the model again"
        )
    return tuple(lines)
