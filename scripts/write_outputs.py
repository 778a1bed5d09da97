"""Runs the code blocks of the documentation and writes what they print into the pages.

    python scripts/write_outputs.py [MODEL] [--page docs/PAGE.md …]

MODEL is a directory that stands for the bundled model. Only ``text`` blocks under ``<!-- output -->`` are written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.documents import BUNDLED, PAGES, prepare, run_page, with_outputs
from xlm._io.atomic import write_text


@contextlib.contextmanager
def inside(directory: str) -> Iterator[None]:
    """The same as ``contextlib.chdir``, which Python 3.10 lacks."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> int:
    """Writes the pages and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="by default the bundled one")
    parser.add_argument("--page", action="append", type=Path, metavar="FILE", help="by default all that have outputs")
    arguments = parser.parse_args()
    for page in arguments.page or PAGES:
        text = page.read_text(encoding="utf-8")
        if "<!-- output -->" not in text:
            continue
        with tempfile.TemporaryDirectory() as directory:
            prepare(Path(directory), bundled=arguments.model)
            if arguments.model is None:
                # Without it, the name means what it means to a reader.
                (Path(directory) / BUNDLED).rename(Path(directory) / "tiny")
            with inside(directory):
                found = with_outputs(text, run_page(text))
        if found != text:
            write_text(page, found)
        print(f"{page}: {'written' if found != text else 'as it was'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
