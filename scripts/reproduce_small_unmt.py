#!/usr/bin/env python3
"""Repeat the recorded small run of unsupervised translation, and compare its BLEU with the original's.

The reference folder holds the data, the language model to start from and the original's curves (``unmt/e2e`` in the
references that CONTRIBUTING.md describes). The text is words of a small vocabulary already, so no BPE is learnt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xlm.checkpoint.original import read_dictionary
from xlm.data.shards import TOKENIZER_DIRECTORY, Index, Shard, Source, Text, id_dtype
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.config import load_config
from xlm.training.log import Event
from xlm.training.loop import train

LANGUAGES = ("en", "xx")
CONFIG = """
data = {data}
output = {output}
objectives = ["ae:en", "ae:xx", "bt:en-xx-en", "bt:xx-en-xx"]
seed = {seed}

[model]
{model}

[batch]
batch_size = 64

[coefficients]
ae = "0:1,300:0.3,600:0.1"

[evaluation]
bleu = "tokenized"

[optimiser]
lr = 0.002
warmup_steps = 400
beta1 = 0.9
beta2 = 0.98
eps = 1e-8
weight_decay = 0.0

[run]
max_steps = {updates}
evaluate_every = 400
save_every = 400
log_every = 40
device = "cpu"
"""
RANDOM = "emb_dim = 64\nn_layers = 3\nn_heads = 4"
UPDATES_OF_AN_ITERATION = 4


def spelling_merges(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return merges that spell every word from left to right: a tokenizer needs some that produce its vocabulary."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(letters)):
            merges["".join(letters[:end]), letters[end]] = None
    return tuple(merges)


def prepare(reference: Path, directory: Path) -> None:
    """Write the ids of the words to a directory of prepared data."""
    words = read_dictionary(reference / "clm.pth").words
    vocabulary = Vocabulary.from_dictionary(words, where=reference / "clm.pth")
    languages = {name: number for number, name in enumerate(LANGUAGES)}
    tokenizer = XLMTokenizer(vocabulary, spelling_merges(words), preset="original", lang2id=languages)
    directory.mkdir(parents=True)
    tokenizer.save_pretrained(directory / TOKENIZER_DIRECTORY)
    ids = {word: index for index, word in enumerate(words)}
    index = Index(signature=tokenizer_digest(tokenizer), vocab_size=len(words), dtype="uint16")
    files = {("train", lang): reference / f"train.{lang}" for lang in LANGUAGES}
    for split in ("valid", "test"):
        files |= {(split, f"en-xx.{lang}"): reference / f"{split}.en-xx.{lang}" for lang in LANGUAGES}
    for (split, name), path in files.items():
        lines = path.read_text("utf-8").splitlines()
        flat = [index for line in lines for index in (*(ids[word] for word in line.split()), tokenizer.sep_token_id)]
        data = np.array(flat, id_dtype("uint16")).tobytes()
        shard = f"{split}.{name}.0000.bin"
        (directory / shard).write_bytes(data)
        status = path.stat()
        source = Source(path=str(path), bytes=status.st_size, modified=status.st_mtime_ns)
        sha256 = hashlib.sha256(data).hexdigest()
        shards = (Shard(file=shard, lines=len(lines), tokens=len(flat), unknown=0, sha256=sha256),)
        index = index.with_text(split, name, Text(source=source, complete=True, shards=shards))
    index.write(directory)


def main() -> None:
    """Parse the command line, prepare the data once, and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reference", type=Path, help="folder with clm.pth, curves.json and the text")
    parser.add_argument("output", type=Path, help="directory for the data and the run")
    parser.add_argument("--random", action="store_true", help="start from random weights, not from clm.pth")
    parser.add_argument("--iterations", type=int, default=600, help="iterations of four updates (default: 600)")
    parser.add_argument("--seed", type=int, default=3, help="seed of the run (default: 3)")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="as xlm train")
    arguments = parser.parse_args()
    if not (arguments.reference / "clm.pth").is_file():
        parser.error(f"{arguments.reference} has no clm.pth")
    data, run = arguments.output / "data", arguments.output / ("random" if arguments.random else "clm")
    if not data.exists():
        prepare(arguments.reference, data)
    start = f"start_from = {json.dumps(str(arguments.reference / 'clm.pth'))}"
    config = CONFIG.format(
        data=json.dumps(str(data)),
        output=json.dumps(str(run)),
        seed=arguments.seed,
        model=RANDOM if arguments.random else start,
        updates=arguments.iterations * UPDATES_OF_AN_ITERATION,
    )
    path = arguments.output / f"{run.name}.toml"
    path.write_text(config, "utf-8")
    recorded = json.loads((arguments.reference / "curves.json").read_text("utf-8"))
    theirs = recorded["from_random" if arguments.random else "from_clm"]["evaluations"]
    begun, first = time.perf_counter(), 0

    def observe(event: Event) -> None:
        nonlocal first
        if event["event"] == "evaluation":
            iteration = event["updates"] // UPDATES_OF_AN_ITERATION
            same = [each for each in theirs if 100 * (each["epoch"] + 1) == iteration]
            original: dict[str, float] = same[0] if same else {}
            for split, prefix in (("valid", ""), ("test", "test_")):
                for direction in ("en-xx", "xx-en"):
                    bleu = event[f"{prefix}bleu"][direction]
                    expected = original.get(f"{split}_{direction}_mt_bleu")
                    print(
                        f"{iteration:5}  {split:5}  {direction}  BLEU {bleu:6.2f}  the original {expected}", flush=True
                    )
        elif event["event"] == "end":
            rate = (event["updates"] - first) / UPDATES_OF_AN_ITERATION / (time.perf_counter() - begun)
            print(f"{rate:.2f} iterations a second, including evaluation", flush=True)
        elif event["event"] == "start":
            first = event["updates"]  # not 0 if the run continues

    train(load_config(str(path), arguments.changes), resume=run.exists(), observers=[observe])


if __name__ == "__main__":
    main()
