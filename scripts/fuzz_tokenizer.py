#!/usr/bin/env python3
"""Compare the tokenizer with transformers and with its specification on random texts, for a given time.

    PYTHONPATH=. .venv/bin/python scripts/fuzz_tokenizer.py --minutes 30 [--seed N]

The preset follows the installed version of transformers: ``transformers`` for 5.x, ``transformers-v4`` for 4.x. The
vocabulary and the lines are those of the references in XLM_REFERENCE (default ../shared), or small ones if there are
none. For every preset, one text, a batch and the specification (``pipeline.py``) must give the same pieces and ids.
Prints the number of compared texts and each text that differs. The exit status is 1 if any text differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.tokenizer import fuzzing
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.tokenizer import XLMTokenizer


def main() -> int:
    """Compare texts until the time is over, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="by default the time")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    preset = "transformers-v4" if transformers.__version__.startswith("4.") else "transformers"
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    reference = Path(os.environ.get("XLM_REFERENCE", "../shared"))
    lines = [line for path in sorted(reference.glob("tokenizer/text/*.txt")) for line in path.read_text().split("\n")]
    directory = reference / "published/xlm-clm-ende-1024"
    with tempfile.TemporaryDirectory() as folder:
        if not directory.is_dir():
            directory = Path(folder)
            ids = {token: index for index, token in enumerate(VOCABULARY.tokens)}
            (directory / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
            merges = "".join(f"{left} {right}\n" for left, right in MERGES)
            (directory / "merges.txt").write_text(merges, encoding="utf-8")
        pairs = [
            (
                XLMTokenizer.from_pretrained(
                    directory, preset=preset, lang2id=None, do_lowercase_and_remove_accent=lowers
                ),
                transformers.XLMTokenizer.from_pretrained(
                    directory, lang2id=None, id2lang=None, do_lowercase_and_remove_accent=lowers
                ),
            )
            for lowers in (True, False)
        ]
    print(f"seed {seed}, {len(lines)} real lines, transformers {transformers.__version__}", flush=True)
    texts = fuzzing.Texts(seed, lines)
    compared = compared_batches = differing = 0
    first, _ = pairs[0]
    alone = [
        XLMTokenizer(first.vocabulary, first.merges, preset=name, do_lowercase_and_remove_accent=lowers)
        for name in PRESETS
        for lowers in (True, False)
    ]
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        for ours, peer in pairs:
            difference = fuzzing.check(ours, peer, texts, cut=preset == "transformers")
            compared += 1
            if difference is not None:
                differing += 1
                print(difference, flush=True)
        for tokenizer in alone:
            difference = fuzzing.check_itself(tokenizer, texts)
            compared_batches += 1
            if difference is not None:
                differing += 1
                print(difference, flush=True)
    print(f"{compared_batches} batches of 1 to 300 texts compared among themselves")
    print(f"{compared} texts compared, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
