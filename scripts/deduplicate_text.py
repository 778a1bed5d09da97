"""Makes the training text of one language: every line once, and none that stands in a held-out text.

    python scripts/deduplicate_text.py --output train.en.txt --held-out valid.en.txt --held-out test.en.txt TEXT …

Lines are the same when they differ in nothing but case, punctuation, spaces and Unicode's compatibility forms; the
first of them stays, and lines without a letter or digit go. Texts are UTF-8; those whose names end in ``.gz`` are
decompressed. Prints how many lines of each text were kept, were there before, were held out, and were empty.
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
"""The held-out parts of the text of ``xlm-clm-ende-small``, each a file a language (``eltec-valid.en.txt``)."""

_NOT_WORDS = re.compile(r"\W+")


@dataclass(kw_only=True, slots=True)
class Counts:
    """Lines of one text: kept, there before, held out, and without a letter or digit."""

    kept: int = 0
    repeated: int = 0
    held_out: int = 0
    empty: int = 0


def key(line: str) -> str:
    """What two lines that count as the same have in common; empty for a line without a letter or digit."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", line).lower()).strip()


def deduplicate(texts: Sequence[Path], held_out: Sequence[Path], output: Path) -> list[Counts]:
    """Writes what is kept, whole or not at all, and returns the counts of each text.

    Raises:
        InputError: A text cannot be read.
        WriteError: The output could not be written.
    """
    forbidden = {key(line) for path in held_out for line in Corpus([path]).texts()}
    seen: set[str] = set()
    counts = []
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for path in texts:
            of_text = Counts()
            counts.append(of_text)
            for line in Corpus([path]).texts():
                of_line = key(line)
                if not of_line:
                    of_text.empty += 1
                elif of_line in forbidden:
                    of_text.held_out += 1
                elif of_line in seen:
                    of_text.repeated += 1
                else:
                    seen.add(of_line)
                    file.write(line + "\n")
                    of_text.kept += 1
    return counts


def main() -> int:
    """The command; its exit status."""
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
    for path, found in zip(arguments.texts, counts, strict=True):
        print(path.name, found.kept, found.repeated, found.held_out, found.empty, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
