"""Write the training text of one language: every line once, and no line of a held-out text.

    python scripts/deduplicate_text.py --output train.en.txt --held-out valid.en.txt --held-out test.en.txt TEXT …

Lines are the same if they differ only in case, punctuation, spaces and Unicode's compatibility forms. The first of
them is kept. Lines without a letter or digit are dropped. Texts are UTF-8, and compressed if their names end in
``.gz``. Prints how many lines of each text were kept, repeated, held out, and without a letter or digit.
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
from xlm.data.text import texts_of
from xlm.errors import XLMError

HELD_OUT = ("eltec-valid", "tatoeba-valid", "newstest2016")
"""The held-out parts of the text of ``xlm-clm-ende-small``, each a file a language (``eltec-valid.en.txt``)."""

_NOT_WORDS = re.compile(r"\W+")


@dataclass(kw_only=True, slots=True)
class Counts:
    """Numbers of lines of one text: kept, repeated, held out, and without a letter or digit."""

    kept: int = 0
    repeated: int = 0
    held_out: int = 0
    empty: int = 0


def key(line: str) -> str:
    """Return what equal lines have in common; an empty string for a line without a letter or digit."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", line).lower()).strip()


def deduplicate(texts: Sequence[Path], held_out: Sequence[Path], output: Path) -> list[Counts]:
    """Write the kept lines, all or none, and return the counts of each text.

    Raises:
        InputError: A text cannot be read.
        WriteError: The output could not be written.
    """
    forbidden = {key(line) for path in held_out for line in texts_of(path)}
    seen: set[str] = set()
    counts = []
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for path in texts:
            of_text = Counts()
            counts.append(of_text)
            for line in texts_of(path):
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
    """Run the command and return the exit status."""
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
    for path, count in zip(arguments.texts, counts, strict=True):
        print(path.name, count.kept, count.repeated, count.held_out, count.empty, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
