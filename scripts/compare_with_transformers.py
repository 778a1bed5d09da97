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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel, score
from xlm._atomic import write_text
from xlm.bench.report import machine_facts

BUNDLED = "xlm-clm-ende-small"
SENTENCES = Path(__file__).resolve().parent / "compare_with_transformers"
_ROWS = 16
_PUBLISHED_MASK_TOKEN_ID = 0
_END = 1
_START = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How transformers is run; the defaults of this class are what is right.

    Attributes:
        name: What the row of the table is called.
        text: Which of ``Peer.encoders`` divides the text.
        first: Id of the opening token.
        language: ``"right"``, ``"none"``, or ``"lang_id"``: the configuration's, whatever the text.
        causal: Whether attention looks at earlier tokens only.
        way: ``"forward"``: the logits before a token; ``"generate"``: those that ``generate`` takes, behind an appended
            mask token; ``"labels"``: the loss that ``labels=input_ids`` gives.
    """

    name: str
    text: str = "training"
    first: int = _END
    language: str = "right"
    causal: bool = True
    way: str = "forward"


RIGHT = Setting(name="transformers, everything put right")
SETTINGS = (
    RIGHT,
    Setting(name="attention is bidirectional", causal=False),
    Setting(name="text is lower-cased, accents are stripped", text="lower-cased"),
    Setting(name="text is split by English rules", text="English rules"),
    Setting(name="texts begin with <s>, which is untrained", first=_START),
    Setting(name="no language is given", language="none"),
    Setting(name="generate() appends <s> to what it predicts from", way="generate"),
    Setting(name="generate() takes lang_id for the language", language="lang_id"),
    Setting(name="labels=input_ids is not shifted", way="labels"),
    Setting(name="all of them in a forward, the language given", text="as it comes", first=_START, causal=False),
    Setting(
        name="all of them in generate()",
        text="as it comes",
        first=_START,
        language="lang_id",
        causal=False,
        way="generate",
    ),
)
"""The rows of the table, those of ``xlm.score`` aside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What one way of running gives to the texts of one language.

    Attributes:
        tokens: How many were predicted.
        logprob: Nats, of all of them together.
        characters: Of the raw texts, with one for the end of each.
    """

    tokens: int
    logprob: float
    characters: int

    @property
    def perplexity(self) -> float:
        """By token."""
        return math.exp(-self.logprob / self.tokens)

    @property
    def bits_per_character(self) -> float:
        """Of the raw text, so that other tokens do not make other units."""
        return -self.logprob / math.log(2) / self.characters


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


class Peer:
    """A model as ``transformers`` opens it, with the settings of the published configurations.

    Args:
        directory: In the layout of ``transformers``; made by ``write_as_published``.
        tokenizer: That of the training.
    """

    def __init__(self, directory: Path, tokenizer: XLMTokenizer) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self._directory = directory
        as_it_comes = transformers.XLMTokenizer.from_pretrained(directory)
        cased = transformers.XLMTokenizer.from_pretrained(directory, do_lowercase_and_remove_accent=False)

        def told(theirs: Any, text: str, lang: str) -> list[int]:
            ids: list[int] = theirs.convert_tokens_to_ids(theirs._tokenize(text, lang=lang))
            return ids

        def untold(theirs: Any, text: str, lang: str) -> list[int]:
            ids: list[int] = theirs.encode(text, add_special_tokens=False)
            return ids

        self.encoders: dict[str, Callable[[str, str], list[int]]] = {
            "training": lambda text, lang: tokenizer.encode(text, lang=lang, add_special_tokens=False),
            "cased, told the language": partial(told, cased),
            "lower-cased": partial(told, as_it_comes),
            "English rules": partial(untold, cased),
            "as it comes": partial(untold, as_it_comes),
        }
        self._models = {
            causal: transformers.XLMWithLMHeadModel.from_pretrained(
                directory, dtype=torch.float32, **({"causal": True} if causal else {})
            ).eval()
            for causal in (True, False)
        }

    def figure(self, setting: Setting, texts: Sequence[str], lang: str) -> Figure:
        """Runs one row of the table on the texts of a language."""
        model = self._models[setting.causal]
        rows = [[setting.first, *self.encoders[setting.text](text, lang), _END] for text in texts]
        longest = model.config.max_position_embeddings
        assert max(map(len, rows)) < longest, "a text is too long"
        languages = {"right": model.config.lang2id[lang], "none": None, "lang_id": model.config.lang_id}
        measure = {"forward": _forward, "generate": _generate, "labels": _labels}[setting.way]
        with torch.inference_mode():
            logprobs = measure(model, rows, languages[setting.language])
        return Figure(tokens=len(logprobs), logprob=math.fsum(logprobs), characters=_characters(texts))


def _batches(rows: Sequence[list[int]]) -> Iterable[Tensor]:
    """Rows of one length together: no padding, so nothing to be said about how it is masked."""
    by_length: dict[int, list[list[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    for same in by_length.values():
        for start in range(0, len(same), _ROWS):
            yield torch.tensor(same[start : start + _ROWS])


def _of_targets(logits_BTV: Tensor, targets_BT: Tensor) -> list[float]:
    scores_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)
    found: list[float] = scores_BT.flatten().tolist()
    return found


def _languages(ids_BT: Tensor, language: int | None) -> Tensor | None:
    return None if language is None else torch.full_like(ids_BT, language)


def _forward(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    found = []
    for ids_BT in _batches(rows):
        logits_BTV = model(ids_BT, langs=_languages(ids_BT, language)).logits
        found += _of_targets(logits_BTV[:, :-1], ids_BT[:, 1:])
    return found


def _generate(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    """What one step of ``generate`` gives to each token, with transformers' own preparation of its input."""
    prefixes = [row[: end + 1] for row in rows for end in range(1, len(row))]  # the last id is the one to predict
    of_configuration = model.config.lang_id
    model.config.lang_id = language
    found = []
    try:
        for ids_BT in _batches(prefixes):
            inputs = model.prepare_inputs_for_generation(ids_BT[:, :-1])
            found += _of_targets(model(**inputs).logits[:, -1:], ids_BT[:, -1:])
    finally:
        model.config.lang_id = of_configuration
    return found


def _labels(model: Any, rows: Sequence[list[int]], language: int | None) -> list[float]:
    found = []
    for ids_BT in _batches(rows):
        loss = float(model(ids_BT, langs=_languages(ids_BT, language), labels=ids_BT).loss)
        found += [-loss] * ids_BT.numel()
    return found


def _characters(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) + len(texts)


def write_as_published(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, directory: Path) -> None:
    """Writes a model in the layout of ``transformers``, with the settings that the published models have there.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        directory: What is made.
    """
    model.save_pretrained(directory)
    replace(tokenizer, preset="transformers", do_lowercase_and_remove_accent=True, bos_token="<s>").save_pretrained(
        directory
    )
    path = directory / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"causal": False, "mask_token_id": _PUBLISHED_MASK_TOKEN_ID, "lang_id": 0}
    del settings["xlm"]  # it says that the model is causal after all
    path.write_text(json.dumps(settings), encoding="utf-8")


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
                    characters=_characters(lines),
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
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:lines]


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
