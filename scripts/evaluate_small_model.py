"""Print the results of the model card of ``xlm-clm-ende-small``, as markdown.

    python scripts/evaluate_small_model.py --work WORK --text TEXT [--card CARD] [--sections text run …] [--steps N]

WORK is the working directory of ``scripts/train_small_model``, with ``data/`` and ``run/``; TEXT is the directory of
the texts. ``--card`` also writes each section to that file, between the comments that bear its name. ``--steps`` is the
number of training steps of the model, by default those of the best model of the run. The section ``n-grams`` takes
minutes.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare_with_ngram import compare, held_out_ids, load, report, run_settings, training_ids
from deduplicate_text import HELD_OUT

from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm._io.atomic import write_text
from xlm.checkpoint.hf_weights import WEIGHTS_FILE
from xlm.checkpoint.resolve import find_model
from xlm.corpus.rows import Corpus
from xlm.data.shards import Index, file_sha256
from xlm.errors import XLMError
from xlm.scoring.logprobs import score_sequences
from xlm.training.config import load_config, with_new_names
from xlm.training.log import read_log

NAME = "xlm-clm-ende-small"
SHIPPED = "clm_ende_small"
SECTIONS = ("text", "run", "perplexity", "n-grams")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextResult:
    """Result of a model on one text.

    Attributes:
        tokens: Number of predicted tokens.
        characters: Number of characters; the end of a line counts as one.
        nats: Sum over the tokens, by the language given to the model.
    """

    tokens: int
    characters: int
    nats: dict[str, float]

    def cells(self, lang: str) -> tuple[str, str]:
        """Return perplexity and bits per character for a language given to the model."""
        nats = self.nats[lang]
        return f"{math.exp(nats / self.tokens):.1f}", f"{nats / math.log(2) / self.characters:.3f}"


def evaluate(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, path: Path, lang: str) -> TextResult:
    """Score each line of a text, once for every language of the model."""
    lines = list(Corpus([path]).texts())
    sequences = [[model.config.eos_token_id, *ids] for ids in held_out_ids(path, tokenizer, lang)]
    nats = {}
    for language in model.config.lang2id:
        with torch.inference_mode():
            scores = score_sequences(model, sequences, language)
        nats[language] = -math.fsum(logprob for score in scores for logprob in score.logprobs)
    return TextResult(
        tokens=sum(len(ids) - 1 for ids in sequences), characters=sum(map(len, lines)) + len(lines), nats=nats
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, words: int) -> str:
    """Return a markdown table, whose first ``words`` columns hold words and whose others hold numbers."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (heads, rule, *rows))


def text_results(data: Path) -> str:
    """Return the sizes of the training text and of the held-out text."""
    rows = [
        (split, lang, f"{text.lines:,}", f"{text.tokens:,}", f"{sum(shard.unknown for shard in text.shards):,}")
        for split, texts in Index.read(data).splits.items()
        for lang, text in sorted(texts.items())
    ]
    return _table(("split", "language", "lines", "tokens", "unknown"), rows, words=2)


def run_results(model: XLMWithLMHeadModel, directory: Path, *, data: Path, run: Path, steps: int | None) -> str:
    """Return how the model was trained, and the checksum of its weights."""
    config, best = run_settings(run)
    steps = best if steps is None else steps
    planned = {
        event["updates"]: with_new_names(event["config"], warn=False)["run"]["max_steps"]
        for event in read_log(run)
        if event["event"] == "start"
    }
    changes = [at for before, at in pairwise([None, *planned]) if before is None or planned[before] != planned[at]]
    shipped = load_config(SHIPPED, ["data=data", "output=run"]).to_dict()
    different = [name for name in ("model", "batch", "optimiser") if config[name] != shipped[name]]
    different += ["run.max_steps"] * (config["run"]["max_steps"] != shipped["run"]["max_steps"])
    updates = [event for event in read_log(run) if event["event"] == "update" and event["step"] <= steps]
    seen = {lang: f"{len(ids):,} of {len(every):,}" for lang, (ids, every) in training_ids(data, config, steps).items()}
    trained_on = steps * config["batch"]["batch_size"] * config["batch"]["seq_len"]
    rows = [
        ("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
        ("updates", f"{steps:,} of {config['batch']['batch_size']} x {config['batch']['seq_len']} tokens"),
        ("learning rate as for", ", ".join(f"{planned[at]:,} updates from {at:,} on" for at in changes)),
        ("tokens trained on", f"{trained_on:,}, those that came twice counted twice"),
        ("different ones among them", ", ".join(f"{lang}: {count} of the text" for lang, count in seen.items())),
        ("training loss at the end", f"{updates[-1]['loss']:.3f} nats per token"),
        (f"model, batches, optimiser, updates other than in `{SHIPPED}`", ", ".join(different) or "none"),
        (f"SHA-256 of `{WEIGHTS_FILE}`", f"`{file_sha256(directory / WEIGHTS_FILE)}`"),
    ]
    return _table(("", ""), rows, words=2)


def perplexity_results(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: Path) -> str:
    """Return perplexity and bits per character of every held-out part, under its own language and under the other."""
    heads = ("held-out part", "language", "tokens", "characters", "perplexity", "bits a character")
    rows = []
    for part in HELD_OUT:
        for lang in sorted(model.config.lang2id):
            result = evaluate(model, tokenizer, text / f"{part}.{lang}.txt", lang)
            wrong = [cell for other in result.nats if other != lang for cell in result.cells(other)]
            rows.append((part, lang, f"{result.tokens:,}", f"{result.characters:,}", *result.cells(lang), *wrong))
    return _table((*heads, "perplexity, wrong language", "bits, wrong language"), rows, words=2)


def fill(card: str, name: str, results: str) -> str:
    """Return a card with the results of one section replaced.

    Raises:
        XLMError: The card has no such section.
    """
    begin, end = f"<!-- figures: {name} -->\n", "<!-- end of figures -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(card):
        raise XLMError("the card has no such section", where=name, expected=begin + end)
    return pattern.sub(lambda match: f"{match[1]}\n{results.strip()}\n\n{match[2]}", card)


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("--work", "--text"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--card", type=Path)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    data, run, text, steps = arguments.work / "data", arguments.work / "run", arguments.text, arguments.steps
    try:
        model, tokenizer = load(NAME)
        sections: dict[str, Callable[[], str]] = {
            "text": lambda: text_results(data),
            "run": lambda: run_results(model, find_model(NAME), data=data, run=run, steps=steps),
            "perplexity": lambda: perplexity_results(model, tokenizer, text),
            "n-grams": lambda: report(compare(model, tokenizer, data=data, run=run, text=text, steps=steps)),
        }
        for name in arguments.sections:
            results = sections[name]()
            print(f"## {name}\n\n{results}", flush=True)
            if arguments.card is not None:
                write_text(arguments.card, fill(arguments.card.read_text("utf-8"), name, results))
    except XLMError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
