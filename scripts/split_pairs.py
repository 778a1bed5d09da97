"""Split a parallel text into two monolingual ones in which no pair remains.

    python scripts/split_pairs.py A.txt B.txt A.mono.txt B.mono.txt

Row N of one text translates row N of the other. The script takes the odd rows of A and the even rows of B. Because
texts such as Tatoeba repeat a sentence with several translations, it then leaves out every sentence of B of which a
translation, anywhere in the texts, was taken from A. Sentences are compared as ``deduplicate_text.py`` does. Names that
end in ``.gz`` are decompressed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from deduplicate_text import key  # in the same directory

from xlm._io.atomic import write_text
from xlm.corpus.rows import Corpus
from xlm.errors import InputError, XLMError


def split(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the odd rows of the first side, and those even rows of the second that translate none of them."""
    pairs = list(pairs)
    first = [pair[0] for pair in pairs[::2]]
    keys = {key(line) for line in first}
    translations = {key(second) for line, second in pairs if key(line) in keys}
    return first, [pair[1] for pair in pairs[1::2] if key(pair[1]) not in translations]


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("texts", nargs=2, type=Path, metavar="TEXT")
    parser.add_argument("outputs", nargs=2, type=Path, metavar="OUTPUT")
    arguments = parser.parse_args()
    try:
        sides = [list(Corpus([path]).texts()) for path in arguments.texts]
        if len(sides[0]) != len(sides[1]):
            raise InputError(
                "the texts are not parallel",
                where=", ".join(map(str, arguments.texts)),
                found=f"{len(sides[0]):,} and {len(sides[1]):,} rows",
                expected="as many rows in both",
            )
        for path, lines in zip(arguments.outputs, split(zip(*sides, strict=True)), strict=True):
            write_text(path, "".join(f"{line}\n" for line in lines))
            print(f"{path}: {len(lines):,} rows")
    except XLMError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
