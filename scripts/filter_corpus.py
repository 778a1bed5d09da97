"""Find the lines of a domain in a mixed corpus by the difference of two models' cross-entropies.

    python scripts/filter_corpus.py OUT --domain news.en.txt --general novels.en.txt.gz [--lang en] [--keep 0.05]

The script mixes the corpus itself, so that the right answer is known: most lines come from GENERAL, a few from DOMAIN.
It trains the bundled model further for a few steps, once on other lines of the domain and once on as many lines of
the corpus. It scores the corpus with both models on Ray, joins the scores and keeps the share KEEP of the lines. It
prints the commands and the result. With the same arguments, an interrupted run continues.

Source: Moore and Lewis, Intelligent Selection of Language Model Training Data, ACL 2010, section 2. A line is better
the further its cross-entropy per token under the domain's model lies below that under a model of the corpus.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet

from xlm.corpus.rows import Corpus

_NEEDED = ("line", "tokens", "logprob", "text")
_SHOWN = 5
_FURTHER = """\
[model]
start_from = "{model}"

[batch]
batch_size = 8
seq_len = 128

[optimiser]
lr = 3e-4
schedule = "cosine"
warmup_steps = 10

[run]
evaluate_every = 0
"""


@dataclass(frozen=True, order=True, slots=True)
class Line:
    """A line of the corpus with the result of both models.

    Attributes:
        difference: Cross-entropy of the domain's model minus that of the corpus's model, in nats per token (low: good).
        number: Number of the line, from 1.
        text: The line.
    """

    difference: float
    number: int
    text: str


def scores(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a directory of Parquet parts in order, reading some thousands at a time.

    Raises:
        SystemExit: Parts are missing.
    """
    if not (directory / "_SUCCESS").exists():
        raise SystemExit(f"{directory}: no _SUCCESS, so parts may be missing; run it again")
    for part in sorted(directory.glob("part-*.parquet")):
        with pyarrow.parquet.ParquetFile(part) as file:
            # With a single file, rows do not name it.
            names = [name for name in ("file", *_NEEDED) if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=names):
                yield from batch.to_pylist()


def differences(domain: Iterable[dict[str, Any]], general: Iterable[dict[str, Any]]) -> Iterator[Line]:
    """Join the scores of two models on the same lines, without the lines that one of them could not score.

    Args:
        domain: Rows of the domain's model.
        general: Rows of the other model, for the same corpus.

    Raises:
        ValueError: The rows are not of the same lines.
    """
    for one, other in zip(domain, general, strict=True):
        if any(one.get(name) != other.get(name) for name in ("file", "line", "text")):
            raise ValueError(f"line {one['line']} of one output stands beside line {other['line']} of the other")
        if one["logprob"] is None or other["logprob"] is None:
            continue
        domain_entropy, entropy = (-row["logprob"] / row["tokens"] for row in (one, other))
        yield Line(domain_entropy - entropy, one["line"], one["text"])


def run(*arguments: object) -> None:
    """Print a command of ``xlm`` and run it."""
    words = [str(argument) for argument in arguments]
    print("$", shlex.join(["xlm", *words]), flush=True)
    done = subprocess.run([sys.executable, "-m", "xlm", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)


def lines_of(path: Path) -> list[str]:
    """The lines of a text, each once, without those of fewer than four words."""
    return [line for line in dict.fromkeys(map(str.strip, Corpus([path]).texts())) if len(line.split()) > 3]


def make_corpus(arguments: argparse.Namespace) -> set[int]:
    """Write the mixed corpus and both training samples, and return the numbers of the domain's lines in the corpus."""
    choose = random.Random(arguments.seed)
    domain, general = lines_of(arguments.domain), lines_of(arguments.general)
    choose.shuffle(domain)
    wanted = round(arguments.lines * arguments.share)
    if len(domain) < 2 * wanted:
        raise SystemExit(f"--domain has {len(domain):,} lines that can be used; {2 * wanted:,} are needed")
    if len(general) < arguments.lines - wanted:
        raise SystemExit(
            f"--general has {len(general):,} lines that can be used; {arguments.lines - wanted:,} are needed"
        )
    inside = domain[:wanted]
    corpus = [(line, True) for line in inside]
    corpus += [(line, False) for line in choose.sample(general, arguments.lines - wanted)]
    choose.shuffle(corpus)
    sample = domain[wanted:]
    like_corpus = [line for line, _ in choose.sample(corpus, min(len(sample), len(corpus)))]
    for name, lines in (("corpus", [line for line, _ in corpus]), ("domain", sample), ("general", like_corpus)):
        path, text = arguments.out / f"{name}.txt", "".join(f"{line}\n" for line in lines)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # "xlm prepare" checks the modification time
            path.write_text(text, encoding="utf-8")
    return {number for number, (_, is_domain) in enumerate(corpus, start=1) if is_domain}


def share(word: str) -> float:
    """Parse a number above 0 and up to 1.

    Raises:
        ValueError: The text is no such number.
    """
    share = float(word)
    if not 0 < share <= 1:
        raise ValueError(word)
    return share


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="directory for everything")
    parser.add_argument("--domain", type=Path, required=True, metavar="FILE")
    parser.add_argument("--general", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--model", default="xlm-clm-ende-small", help="what both models are trained on from")
    parser.add_argument("--lines", type=int, default=20_000, help="of the mixed corpus")
    parser.add_argument("--share", type=share, default=0.05, help="of the domain in it")
    parser.add_argument("--keep", type=share, default=0.05, help="share of the lines to keep")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=2, help="workers of Ray")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    inside = make_corpus(arguments)
    (out / "further.toml").write_text(_FURTHER.format(model=arguments.model), encoding="utf-8")
    for name in ("domain", "general"):
        data, trained = out / f"data-{name}", out / f"model-{name}"
        run("prepare", data, "--model", arguments.model, "--train", f"{arguments.lang}={out / name}.txt")
        places = ("--set", f"data={data}", "--set", f"output={trained}")
        run("train", out / "further.toml", *places, "--set", f"run.max_steps={arguments.updates}", "--resume")
        engine = ["--engine", "ray", "--concurrency", arguments.concurrency]
        output = ["--format", "parquet", "--output-dir", out / f"scores-{name}", "--resume"]
        run("score", trained / "last", "--lang", arguments.lang, out / "corpus.txt", *engine, *output)
    lines = list(differences(scores(out / "scores-domain"), scores(out / "scores-general")))
    if not lines:
        raise SystemExit("no line has scores of both models")
    kept = heapq.nsmallest(math.ceil(arguments.keep * len(lines)), lines)
    with (out / "kept.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{line.text}\n" for line in sorted(kept, key=lambda line: line.number))
    right = sum(line.number in inside for line in kept)
    print(f"corpus: {len(lines):,} lines, {len(inside):,} of the domain ({len(inside) / len(lines):.1%})")
    print(f"kept:   {len(kept):,} lines, {right:,} of the domain ({right / len(kept):.1%}); see {out / 'kept.txt'}")
    for title, shown in (("first", kept[:_SHOWN]), ("last", heapq.nlargest(_SHOWN, lines))):
        print(f"{title}:")
        for line in shown:
            kind = "domain " if line.number in inside else "general"
            print(f"{line.difference:+7.3f}  {kind}  {line.text[:84].rstrip()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
