"""Count which files of xlm/ a call enters, and how often it passes from one file to another.

    python scripts/trace_calls.py [--files]

The script traces every Python call and every step of a generator with ``sys.setprofile``. A passage is a call from a
function in one file of xlm/ to a function in another, whatever code outside of xlm/ lies between. Imports during a call
are not traced. The script prints a table of the main calls with the bundled model and, with ``--files``, the files of
each call in the order of their first entry.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import xlm
import xlm.cli
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.scoring.layout import Layout
from xlm.scoring.scorer import Scorer
from xlm.scoring.table import ScoreTable, scored_lines

MODEL = "xlm-clm-ende-small"
TEXT = "The old man opened the door and looked at the child."
SECOND_TEXT = "In the evening, the three sisters walked home through Düsseldorf!"
THIRD_TEXT = "A letter came from the village on the last day of April."
FOURTH_TEXT = "Nobody had seen the black horse since the summer of the great flood."


@dataclass(kw_only=True, slots=True)
class Trace:
    """The files and passages of a call.

    Attributes:
        files: The files, relative to the traced folder, in the order of their first entry.
        passages: Number of calls from one of the files to another.
    """

    files: list[str] = field(default_factory=list)
    passages: int = 0


def trace(call: Callable[[], Any], folder: Path) -> Trace:
    """Run a call and return its trace through the Python files of a folder."""
    result, prefix = Trace(), f"{folder.resolve()}/"
    imports = 0  # depth of nested imports

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal imports
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(prefix):
            return
        if code.co_name == "<module>":
            imports += 1 if event == "call" else -1
        elif event == "call" and not imports:
            file = code.co_filename.removeprefix(prefix)
            if file not in result.files:
                result.files.append(file)
            caller = frame.f_back
            while caller is not None and not caller.f_code.co_filename.startswith(prefix):
                caller = caller.f_back
            result.passages += caller is not None and caller.f_code.co_filename != code.co_filename

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return result


def main_calls(directory: Path) -> dict[str, Callable[[], Any]]:
    """Return the calls to trace by name. They must run in order, so that the first text is encoded with empty caches.

    Args:
        directory: A directory for the input and output of ``xlm score``.
    """
    model, tokenizer = xlm.XLMWithLMHeadModel.from_pretrained(MODEL), xlm.XLMTokenizer.from_pretrained(MODEL)
    ids_1T = torch.arange(100, 108)[None]
    (directory / "text").write_text(f"{TEXT}\n", encoding="utf-8")

    batch = [f"{SECOND_TEXT} {number}" for number in range(8)]

    def score_command() -> None:
        sys.argv = ["xlm", "score", MODEL, "--lang", "en", str(directory / "text"), "--output", str(directory / "out")]
        try:
            xlm.cli.main()
        except SystemExit as end:
            if end.code:
                raise

    scorer, layout = Scorer(model, tokenizer, lang="en"), Layout(lang="en")
    table = ScoreTable(unit="sentence", format="tsv")

    def score_row() -> None:
        for window in windows([Row(file="text", number=1, text=FOURTH_TEXT)]):
            scored_lines(scorer, window, table, layout)

    return {
        "encode, first text": lambda: tokenizer.encode(TEXT, lang="en"),
        "encode, new text": lambda: tokenizer.encode(SECOND_TEXT, lang="en"),
        "encode_batch, 8 texts": lambda: tokenizer.encode_batch(batch, lang="en"),
        "forward": lambda: model(ids_1T, langs="en"),
        "score, one text": lambda: xlm.score(model, tokenizer, [THIRD_TEXT], lang="en"),
        "xlm score, start to end": score_command,
        "xlm score, one row": score_row,
        "generate, 8 tokens": lambda: model.generate(ids_1T, langs="en", max_new_tokens=8),
    }


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files of each call too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(xlm.__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        traces = {name: trace(call, folder) for name, call in main_calls(Path(scratch)).items()}
    print(f"{'call':<24} files passages")
    for name, result in traces.items():
        print(f"{name:<24} {len(result.files):5} {result.passages:8}")
        if arguments.files:
            print(*(f"  {file}" for file in result.files), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
