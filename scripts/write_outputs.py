"""Run the code blocks of the documentation and write their output into the pages.

    python scripts/write_outputs.py [MODEL] [--page docs/PAGE.md …]

MODEL is a directory that takes the place of the bundled model. Only ``text`` blocks under ``<!-- output -->`` change.
Commands of xlm write to a terminal 80 columns wide, so the pages show what a reader sees.
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

from tests.documents import BUNDLED, PAGES, README, prepare, run_page, with_outputs
from xlm._io.atomic import write_text


@contextlib.contextmanager
def inside(directory: str) -> Iterator[None]:
    """Change the current directory for a while, like ``contextlib.chdir``, which Python 3.10 lacks."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> int:
    """Write the pages and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="default: the bundled model")
    parser.add_argument("--page", action="append", type=Path, metavar="FILE", help="default: all")
    arguments = parser.parse_args()
    for page in arguments.page or [README, *PAGES]:
        text = page.read_text(encoding="utf-8")
        if "<!-- output -->" not in text:
            continue
        with tempfile.TemporaryDirectory() as directory:
            prepare(Path(directory), bundled=arguments.model)
            if arguments.model is None:
                # then the name means the bundled model, as for a reader
                (Path(directory) / BUNDLED).rename(Path(directory) / "tiny")
            with inside(directory):
                result = with_outputs(text, run_page(text, terminal=True))
        if result != text:
            write_text(page, result)
        print(f"{page}: {'written' if result != text else 'unchanged'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
