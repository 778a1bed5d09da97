#!/usr/bin/env python3
"""Measures what transformers gets wrong on an XLM model when it is used as it comes, setting by setting.

    python scripts/compare_with_transformers.py [MODEL …] [--codes FILE] [--text LANG=FILE …] [--lines N] [--json FILE]

Each MODEL is written as the published models are: ``causal: false``, the mask token 0, a tokenizer that lower-cases.
``transformers`` opens that directory and scores texts, first with everything put right, then with one of its defaults
at a time, at last with all of them. A bidirectional model may well score better: it sees the word that it is to
predict, so its figure is no probability of anything. Without MODEL it is the bundled one, and the model that the
original trained on captions where the recorded references are (XLM_REFERENCE, default ../shared). Prints Markdown;
nothing is asserted.

Perplexities are by token, so those of two rows with other tokens cannot be compared; bits per character can.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from published_peer import SETTINGS, Figure, Peer, characters_of, write_as_published

from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel, score
from xlm._atomic import write_text
from xlm.bench.report import machine_facts

BUNDLED = "xlm-clm-ende-small"
SENTENCES = Path(__file__).resolve().parent / "compare_with_transformers"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDifference:
    """How the tokens of texts differ from those of the training pipeline.

    Attributes:
        lines: How many texts there are.
        lines_that_differ: On how many of them.
        tokens: How many tokens the training pipeline makes.
        tokens_that_differ: How many of those are not in a longest common subsequence of both.
    """

    lines: int
    lines_that_differ: int
    tokens: int
    tokens_that_differ: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that was measured on one model; the outer key of both mappings is the language.

    Attributes:
        model: Its name.
        tokens: By language and way to divide the text.
        figures: By language and name of the row.
    """

    model: str
    tokens: dict[str, dict[str, TokenDifference]]
    figures: dict[str, dict[str, Figure]]


def differing_tokens(trained: Sequence[int], other: Sequence[int]) -> int:
    """How many of the tokens are not in a longest common subsequence of both."""
    lengths = [0] * (len(other) + 1)
    for token in trained:
        above_left = 0
        for place, candidate in enumerate(other, 1):
            above = lengths[place]
            lengths[place] = above_left + 1 if token == candidate else max(above, lengths[place - 1])
            above_left = above
    return len(trained) - lengths[-1]


def compare(
    name: str, texts: dict[str, list[str]], *, codes: Path | None = None, progress: Callable[[str], None] | None = None
) -> Comparison:
    """Measures everything on one model.

    Args:
        name: The model, as ``from_pretrained`` takes it.
        texts: Raw texts by language.
        codes: BPE codes of an original's checkpoint.
        progress: Told what is measured next.
    """
    tell = progress or (lambda _: None)
    tokenizer = XLMTokenizer.from_pretrained(name, codes=codes, preset="original")
    tokenizer = replace(tokenizer, bos_token="</s>", do_lowercase_and_remove_accent=False)
    model = XLMWithLMHeadModel.from_pretrained(name, causal=True)
    tokens: dict[str, dict[str, TokenDifference]] = {}
    figures: dict[str, dict[str, Figure]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "as-published"
        write_as_published(model, tokenizer, directory)
        peer = Peer(directory, tokenizer)
        for lang, lines in texts.items():
            trained = [peer.encoders["training"](text, lang) for text in lines]
            tokens[lang] = {}
            for way, encode in peer.encoders.items():
                if way != "training":
                    pairs = [(ids, encode(text, lang)) for ids, text in zip(trained, lines, strict=True)]
                    tokens[lang][way] = TokenDifference(
                        lines=len(lines),
                        lines_that_differ=sum(ids != theirs for ids, theirs in pairs),
                        tokens=sum(map(len, trained)),
                        tokens_that_differ=sum(differing_tokens(*pair) for pair in pairs),
                    )
            tell(f"{name}, {lang}: xlm.score")
            results = score(model, tokenizer, lines, lang=lang)
            figures[lang] = {
                "xlm.score": Figure(
                    tokens=sum(len(result.logprobs) for result in results),
                    logprob=math.fsum(result.logprob for result in results),
                    characters=characters_of(lines),
                )
            }
            for setting in SETTINGS:
                tell(f"{name}, {lang}: {setting.name}")
                figures[lang][setting.name] = peer.figure(setting, lines, lang)
    return Comparison(model=name, tokens=tokens, figures=figures)


def as_markdown(comparison: Comparison) -> str:
    """Both tables."""
    langs = list(comparison.figures)
    lines = [f"**{comparison.model}**", ""]
    lines += _table(
        [
            "tokens that differ from the training's",
            *(f"{lang}: {unit}" for lang in langs for unit in ("lines", "tokens")),
        ],
        [
            [
                way,
                *(cell for lang in langs for cell in _shares(comparison.tokens[lang][way])),
            ]
            for way in next(iter(comparison.tokens.values()))
        ],
    )
    lines.append("")
    lines += _table(
        ["", *(f"{lang}: {unit}" for lang in langs for unit in ("perplexity", "bits per character"))],
        [
            [
                name,
                *(cell for lang in langs for cell in _shown(comparison.figures[lang][name])),
            ]
            for name in next(iter(comparison.figures.values()))
        ],
    )
    return "\n".join(lines)


def _shares(found: TokenDifference) -> tuple[str, str]:
    return (
        f"{found.lines_that_differ:,} of {found.lines:,}",
        f"{found.tokens_that_differ:,} of {found.tokens:,}",
    )


def _shown(figure: Figure) -> tuple[str, str]:
    return f"{figure.perplexity:,.1f}", f"{figure.bits_per_character:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (head, ruler, *rows)
    ]


def _read(path: Path, lines: int) -> list[str]:
    return [line for line in path.read_bytes().decode("utf-8").split("\n") if line.strip()][:lines]


def _jobs(arguments: argparse.Namespace) -> list[tuple[str, dict[str, list[str]], Path | None]]:
    """Model, texts by language and codes of each comparison."""
    given = arguments.text or [f"{lang}={SENTENCES / f'sentences.{lang}.txt'}" for lang in ("en", "de")]
    files = {lang: Path(path) for lang, _, path in (text.partition("=") for text in given)}
    texts = {lang: _read(path, arguments.lines) for lang, path in files.items()}
    jobs: list[tuple[str, dict[str, list[str]], Path | None]] = [
        (name, texts, arguments.codes) for name in arguments.model or [BUNDLED]
    ]
    folder = Path(os.environ.get("XLM_REFERENCE", "../shared"))
    recorded = folder / "checkpoints" / "clm_ende_multi30k"
    if not arguments.model and recorded.is_dir():
        captions = {lang: _read(recorded / f"test.{lang}", arguments.lines) for lang in ("en", "de")}
        codes = folder / "published" / "codes_ende"
        jobs.append((str(recorded / "clm_ende_multi30k.pth"), captions, codes))
    return jobs


def main() -> int:
    """Runs the comparisons of a command line and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", metavar="MODEL", help=f"by default {BUNDLED}, and the recorded one")
    parser.add_argument("--codes", type=Path, metavar="FILE", help="BPE codes of a .pth")
    parser.add_argument("--text", action="append", default=[], metavar="LANG=FILE", help="one text a line")
    parser.add_argument("--lines", type=int, default=100, metavar="N", help="most lines of each file (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, unrounded")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    comparisons = []
    try:
        for name, texts, codes in _jobs(arguments):
            tell = partial(print, file=sys.stderr, flush=True)
            comparisons.append(compare(name, texts, codes=codes, progress=tell))
            print(as_markdown(comparisons[-1]), end="\n\n", flush=True)
    except (XLMError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    machine = machine_facts(["torch", "transformers", "sacremoses"])
    print(machine["versions"])
    if arguments.json:
        found = {"machine": machine, "models": [asdict(comparison) for comparison in comparisons]}
        write_text(arguments.json, json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
