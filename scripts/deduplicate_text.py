"""Write the training text of one language: every line once, without the lines of the held-out texts.

    python scripts/deduplicate_text.py --output train.en.txt --held-out valid.en.txt --held-out test.en.txt TEXT …

Two lines are the same if they differ only in case, punctuation, spaces and Unicode compatibility forms. The first of
them is kept. Lines without a letter or digit are dropped. Texts are UTF-8; names that end in ``.gz`` are decompressed.
The script prints, for each text, the number of lines that were kept, repeated, held out and empty.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xlm._io.atomic import replacing
from xlm.corpus.rows import Corpus
from xlm.errors import XLMError

HELD_OUT = ("eltec-valid", "tatoeba-valid", "newstest2016")
"""Held-out parts of the text of ``xlm-clm-ende-small``, with one file per language (``eltec-valid.en.txt``)."""

_NOT_WORDS = re.compile(r"\W+")


@dataclass(kw_only=True, slots=True)
class Counts:
    """Number of lines of one text, by what happened to them; ``empty`` ones have no letter or digit."""

    kept: int = 0
    repeated: int = 0
    held_out: int = 0
    empty: int = 0


def key(line: str) -> str:
    """Return the key of a line, equal for lines that count as the same; empty without a letter or digit."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", line).lower()).strip()


def deduplicate(texts: Sequence[Path], held_out: Sequence[Path], output: Path) -> list[Counts]:
    """Write the lines to keep, atomically, and return the counts of each text.

    Raises:
        InputError: A text cannot be read.
        WriteError: The output could not be written.
    """
    held_out_keys = {key(line) for path in held_out for line in Corpus([path]).texts()}
    seen: set[str] = set()
    counts = []
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for path in texts:
            text_counts = Counts()
            counts.append(text_counts)
            for line in Corpus([path]).texts():
                line_key = key(line)
                if not line_key:
                    text_counts.empty += 1
                elif line_key in held_out_keys:
                    text_counts.held_out += 1
                elif line_key in seen:
                    text_counts.repeated += 1
                else:
                    seen.add(line_key)
                    file.write(line + "\n")
                    text_counts.kept += 1
    return counts


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--held-out", action="append", default=[], type=Path)
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()
    try:
        counts = deduplicate(arguments.texts, arguments.held_out, arguments.output)
    except XLMError as error:
        print(error, file=sys.stderr)
        return 1
    print("text\tkept\trepeated\theld out\tempty")
    for path, text_counts in zip(arguments.texts, counts, strict=True):
        print(path.name, text_counts.kept, text_counts.repeated, text_counts.held_out, text_counts.empty, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
