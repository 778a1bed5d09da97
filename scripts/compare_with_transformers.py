#!/usr/bin/env python3
"""Measure what transformers gets wrong on an XLM model with its default settings, one setting at a time.

    python scripts/compare_with_transformers.py [MODEL …] [--codes FILE] [--text LANG=FILE …] [--lines N] [--json FILE]

Each MODEL is written with the settings of the published models: ``causal: false``, mask token 0, a tokenizer that
lower-cases. ``transformers`` opens that directory and scores texts, first with every setting put right, then with one
of its defaults at a time, and last with all of them. A bidirectional model may well score better: it sees the word
that it predicts, so its result is not the probability of a text. The default MODELs are the bundled one and, where the
recorded references are (XLM_REFERENCE, default ../shared), the model that the original trained on captions. Prints
Markdown and checks nothing.

Perplexities are by token: compare them only between rows with the same tokens. Bits per character compare always.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import machine_facts
from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel, score
from xlm._io.atomic import write_text
from xlm.errors import InputError
from xlm.parity.peer import encode_as_peer, load_peer

BUNDLED = "xlm-clm-ende-small"
SENTENCES = Path(__file__).resolve().parent / "sentences"

_BATCH_SIZE = 16
_PUBLISHED_MASK_TOKEN_ID = 0
_EOS = 1
_BOS = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How transformers runs; the defaults of this class are the right settings.

    Attributes:
        name: Name of the row in the table.
        text: Key of ``Peer.encoders``, which says how text becomes tokens.
        first: Id of the opening token.
        language: ``"right"``, ``"none"``, or ``"lang_id"``, the configuration's, whatever the text.
        causal: Whether a token attends to earlier tokens only.
        way: ``"forward"``: the logits before a token; ``"generate"``: the logits that ``generate`` uses, at an appended
            mask token; ``"labels"``: the loss of ``labels=input_ids``.
    """

    name: str
    text: str = "training"
    first: int = _EOS
    language: str = "right"
    causal: bool = True
    way: str = "forward"


RIGHT = Setting(name="transformers, everything put right")
SETTINGS = (
    RIGHT,
    Setting(name="attention is bidirectional", causal=False),
    Setting(name="text is lower-cased, accents are stripped", text="lower-cased"),
    Setting(name="text is split by English rules", text="English rules"),
    Setting(name="texts begin with <s>, which is untrained", first=_BOS),
    Setting(name="no language is given", language="none"),
    Setting(name="generate() appends <s> to what it predicts from", way="generate"),
    Setting(name="generate() takes lang_id for the language", language="lang_id"),
    Setting(name="labels=input_ids is not shifted", way="labels"),
    Setting(name="all of them in a forward, the language given", text="as it comes", first=_BOS, causal=False),
    Setting(
        name="all of them in generate()",
        text="as it comes",
        first=_BOS,
        language="lang_id",
        causal=False,
        way="generate",
    ),
)
"""The rows of the table, except that of ``xlm.score``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Result of one setting on the texts of one language.

    Attributes:
        tokens: Number of predicted tokens.
        logprob: Sum of their log-probabilities, in nats.
        characters: Characters of the raw texts, with one for the end of each.
    """

    tokens: int
    logprob: float
    characters: int

    @property
    def perplexity(self) -> float:
        """Perplexity by token."""
        return math.exp(-self.logprob / self.tokens)

    @property
    def bits_per_character(self) -> float:
        """Bits per character of the raw text, whose unit does not depend on the tokens."""
        return -self.logprob / math.log(2) / self.characters


class Peer:
    """A model in ``transformers``, with the settings of the published configurations.

    Args:
        directory: A directory from ``write_as_published``.
        tokenizer: The tokenizer of the training.
    """

    def __init__(self, directory: Path, tokenizer: XLMTokenizer) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        as_it_comes = transformers.XLMTokenizer.from_pretrained(directory)
        cased = transformers.XLMTokenizer.from_pretrained(directory, do_lowercase_and_remove_accent=False)

        def encode(theirs: Any, text: str, lang: str) -> list[int]:
            ids: list[int] = theirs.encode(text, add_special_tokens=False)
            return ids

        self.encoders: dict[str, Callable[[str, str], list[int]]] = {
            "training": lambda text, lang: tokenizer.encode(text, lang=lang, add_special_tokens=False),
            "cased, told the language": partial(encode_as_peer, cased),
            "lower-cased": partial(encode_as_peer, as_it_comes),
            "English rules": partial(encode, cased),
            "as it comes": partial(encode, as_it_comes),
        }
        self._models = {causal: load_peer(directory, causal=causal)[0] for causal in (True, False)}

    def figure(self, setting: Setting, texts: Sequence[str], lang: str) -> Figure:
        """Run one row of the table on the texts of a language.

        Raises:
            InputError: A text is too long for the model's positions.
        """
        model = self._models[setting.causal]
        rows = [[setting.first, *self.encoders[setting.text](text, lang), _EOS] for text in texts]
        longest = model.config.max_position_embeddings
        for text, row in zip(texts, rows, strict=True):
            if len(row) >= longest:
                raise InputError(
                    "a text is too long",
                    where=f"the texts in {lang}",
                    found=f"{len(row) - 2} tokens of transformers: {text[:40]!r}…",
                    expected=f"at most {longest - 3}",
                )
        languages = {"right": model.config.lang2id[lang], "none": None, "lang_id": model.config.lang_id}
        measure = {"forward": _forward, "generate": _generate, "labels": _labels}[setting.way]
        with torch.inference_mode():
            logprobs = measure(model, rows, languages[setting.language])
        return Figure(tokens=len(logprobs), logprob=math.fsum(logprobs), characters=characters_of(texts))


def _batches(rows: Sequence[list[int]]) -> Iterable[Tensor]:
    """Batch rows of the same length, so that there is no padding to mask."""
    by_length: dict[int, list[list[int]]] = {}
    for row in rows:
        by_length.setdefault(len(row), []).append(row)
    for same in by_length.values():
        for start in range(0, len(same), _BATCH_SIZE):
            yield torch.tensor(same[start : start + _BATCH_SIZE])


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
    """Return the log-probability of each token in a step of ``generate``, with inputs prepared by transformers."""
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


def characters_of(texts: Sequence[str]) -> int:
    """Return the number of characters of raw texts, with one for the end of each."""
    return sum(map(len, texts)) + len(texts)


def write_as_published(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, directory: Path) -> None:
    """Write a model in the ``transformers`` layout, with the settings of the published models.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        directory: Where to write; it must not exist.
    """
    model.save_pretrained(directory)
    replace(tokenizer, preset="transformers", do_lowercase_and_remove_accent=True, bos_token="<s>").save_pretrained(
        directory
    )
    path = directory / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"causal": False, "mask_token_id": _PUBLISHED_MASK_TOKEN_ID, "lang_id": 0}
    del settings["xlm"]  # it would say that the model is causal
    path.write_text(json.dumps(settings), encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDifference:
    """Difference between the tokens of texts and those of the training pipeline.

    Attributes:
        lines: Number of texts.
        lines_that_differ: Number of texts with other tokens.
        tokens: Number of tokens of the training pipeline.
        tokens_that_differ: How many of those are not in a longest common subsequence of both.
    """

    lines: int
    lines_that_differ: int
    tokens: int
    tokens_that_differ: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Results of one model; the outer key of both mappings is the language.

    Attributes:
        model: Its name.
        tokens: By language and key of ``Peer.encoders``.
        figures: By language and name of the row.
    """

    model: str
    tokens: dict[str, dict[str, TokenDifference]]
    figures: dict[str, dict[str, Figure]]


def differing_tokens(trained: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens of the training that are not in a longest common subsequence of both."""
    lengths = [0] * (len(other) + 1)
    for token in trained:
        above_left = 0
        for index, candidate in enumerate(other, 1):
            above = lengths[index]
            lengths[index] = above_left + 1 if token == candidate else max(above, lengths[index - 1])
            above_left = above
    return len(trained) - lengths[-1]


def compare(
    name: str, texts: dict[str, list[str]], *, codes: Path | None = None, progress: Callable[[str], None] | None = None
) -> Comparison:
    """Run all rows of the tables on one model.

    Args:
        name: A name that ``from_pretrained`` takes.
        texts: Raw texts by language.
        codes: BPE codes of an original checkpoint.
        progress: Called with what is measured next.
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
    """Return both tables as Markdown."""
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
    """Return model, texts by language and codes of each comparison."""
    given = arguments.text or [f"{lang}={SENTENCES / f'{lang}.txt'}" for lang in ("en", "de")]
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
    """Run the comparisons of a command line and return the exit status."""
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
