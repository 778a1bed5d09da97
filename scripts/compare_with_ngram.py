"""Compare a model with n-gram models on the same held-out tokens.

    python scripts/compare_with_ngram.py --data DATA --run RUN --text TEXT [--model xlm-clm-ende-small] [--order 5]

DATA is the text that ``xlm prepare`` wrote for the model, RUN the directory of its training run, and TEXT the
directory of the held-out parts. Each language gets two n-gram models in the model's vocabulary, with interpolated
modified Kneser-Ney smoothing: one counted in the tokens of DATA that the run has seen, and one in all of them. The
held-out parts are predicted twice:

    sentence   Every line by itself. All models see only the preceding tokens of the line; the model also sees the
               language. Every token is predicted, including the closing ``</s>``.
    stream     The lines as one sequence, in windows of as many tokens as the model has positions. All tokens of a
               window but the first are predicted. The model sees the window; the n-grams see their four tokens, even
               from before the window.

Prints both tables as Markdown. Exits with 1 unless the model's perplexity is below that of the n-grams counted in the
tokens it has seen, in every row.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from deduplicate_text import HELD_OUT
from kneser_ney import KneserNey

from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.corpus.rows import Corpus
from xlm.data.batches import Order, Position, open_streams
from xlm.data.shards import Index
from xlm.scoring.logprobs import score_sequences
from xlm.scoring.stream import ArraySequence, Ids, Stream
from xlm.tokenizer.tokenizer import tokenizer_digest
from xlm.training.config import with_new_names
from xlm.training.log import read_log

PROTOCOLS = ("sentence", "stream")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Perplexities on the same tokens.

    Attributes:
        protocol: ``sentence`` or ``stream``.
        part: Name of the held-out text.
        lang: Its language.
        tokens: Number of predicted tokens.
        seen: Perplexity of the n-grams counted in the tokens that the model has seen.
        everything: Perplexity of the n-grams counted in all training tokens.
        model: Perplexity of the model.
    """

    protocol: str
    part: str
    lang: str
    tokens: int
    seen: float
    everything: float
    model: float


def run_settings(run: Path) -> tuple[dict[str, Any], int]:
    """Return the configuration of a run when it was last resumed, and the step of its best model.

    A run without evaluations has only its last model.
    """
    events = list(read_log(run))
    starts = [with_new_names(event["config"], warn=False) for event in events if event["event"] == "start"]
    if not starts:
        sys.exit(f"{run} is not the directory of a run")
    best = [event["step"] for event in events if event["event"] == "evaluation" and event["best"]]
    return starts[-1], best[-1] if best else max(event["step"] for event in events)


def training_ids(data: Path, config: Mapping[str, Any], steps: int) -> dict[str, tuple[Ids, Ids]]:
    """Return, for each language, the training tokens that a run has seen, in the order of the text, and all tokens.

    Args:
        data: The prepared text.
        config: The configuration of the run.
        steps: Number of batches.
    """
    batch = config["batch"]
    B, T = batch["batch_size"], batch["seq_len"]
    streams = open_streams(data, Index.read(data), "train", batch_size=B, seq_len=T, check=False)
    order = Order(
        windows={lang: len(stream) for lang, stream in streams.items()},
        seed=config["seed"],
        exponent=batch.get("sampling_exponent"),
        shuffle=batch["shuffle"],
    )
    # The same windows, cut out of token positions instead of tokens.
    places = {
        lang: Stream(sequence=ArraySequence(np.arange(len(stream.sequence))), eos_id=-1, rows=B, width=T)
        for lang, stream in streams.items()
    }
    seen = {lang: np.zeros(len(stream.sequence) + 1, bool) for lang, stream in streams.items()}
    position = Position()
    for _ in range(steps):
        lang, window, position = order.next(position)
        seen[lang][places[lang].window(window)] = True  # the last row stands for -1, a token that is not of the text
    found = {}
    for lang, stream in streams.items():
        ids = stream.sequence.slice(0, len(stream.sequence))
        found[lang] = ids[seen[lang][:-1]], ids
    return found


def held_out_ids(path: Path, tokenizer: XLMTokenizer, lang: str) -> list[list[int]]:
    """The lines of a text, each without its opening and with its closing ``</s>``."""
    return [tokenizer.encode(line, lang=lang)[1:] for line in Corpus([path]).texts()]


def perplexities(
    model: XLMWithLMHeadModel, ngrams: Sequence[KneserNey], lines: Sequence[Sequence[int]], lang: str
) -> tuple[int, float, list[float]]:
    """Return the number of predicted tokens, and the perplexities of the model and of the n-grams.

    The protocol is ``stream`` if the n-grams reach across sentences, else ``sentence``.
    """
    eos = model.config.eos_token_id
    text = np.array([index for line in lines for index in line])
    by_ngrams = [each.log_probabilities(text) for each in ngrams]
    if ngrams[0].across_sentences:
        width = model.config.max_position_embeddings
        stream = [eos, *text.tolist()]
        windows = [stream[begin : begin + width] for begin in range(0, len(stream), width)]
        sequences = [window for window in windows if len(window) > 1]
        # Position t of the stream is token t - 1 of the text.
        predicted = np.arange(1, len(stream)) % width != 0
        by_ngrams = [logprobs[predicted] for logprobs in by_ngrams]
    else:
        sequences = [[eos, *line] for line in lines]
    with torch.inference_mode():
        scores = score_sequences(model, sequences, lang)
    by_model = [logprob for score in scores for logprob in score.logprobs]
    tokens = len(by_model)
    assert [len(logprobs) for logprobs in by_ngrams] == [tokens] * len(ngrams)
    return tokens, math.exp(-math.fsum(by_model) / tokens), [math.exp(-each.mean()) for each in by_ngrams]


def compare(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    *,
    data: Path,
    run: Path,
    text: Path,
    order: int = 5,
    steps: int | None = None,
) -> list[Row]:
    """Return one row for each protocol, held-out part and language.

    Args:
        model: The model.
        tokenizer: Its tokenizer, from ``load``.
        data: The prepared text.
        run: The training run.
        text: The directory of the held-out parts.
        order: Number of tokens in the longest n-gram.
        steps: Number of batches that the model has seen; ``None`` for those of the run's best model.

    Raises:
        InputError: Data or texts cannot be read.
    """
    if Index.read(data).signature != tokenizer_digest(tokenizer):
        sys.exit(f"{data} was prepared with another tokenizer than the model's")
    rows = []
    config, best = run_settings(run)
    for lang, trained_on in training_ids(data, config, best if steps is None else steps).items():
        print(f"{lang}: {order}-grams of {' and '.join(f'{len(ids):,}' for ids in trained_on)} tokens", file=sys.stderr)
        held_out = [held_out_ids(text / f"{part}.{lang}.txt", tokenizer, lang) for part in HELD_OUT]
        for protocol in PROTOCOLS:
            ngrams = [
                KneserNey(
                    ids,
                    vocab_size=tokenizer.vocab_size,
                    order=order,
                    eos_id=model.config.eos_token_id,
                    across_sentences=protocol == "stream",
                )
                for ids in trained_on
            ]
            for part, lines in zip(HELD_OUT, held_out, strict=True):
                tokens, of_model, (seen, everything) = perplexities(model, ngrams, lines, lang)
                rows.append(
                    Row(
                        protocol=protocol,
                        part=part,
                        lang=lang,
                        tokens=tokens,
                        seen=seen,
                        everything=everything,
                        model=of_model,
                    )
                )
            del ngrams  # free a gigabyte before the next n-grams are counted
    return sorted(rows, key=lambda row: (row.protocol, HELD_OUT.index(row.part)))


def report(rows: Sequence[Row], *, order: int = 5) -> str:
    """Return a Markdown table for each protocol."""
    heads = ["held-out part", "language", "tokens", f"{order}-gram of the tokens seen", f"{order}-gram of all", "model"]
    lines = []
    for protocol in PROTOCOLS:
        lines += [f"By the protocol `{protocol}`:", "", f"| {' | '.join(heads)} |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {row.part} | {row.lang} | {row.tokens:,} | {row.seen:.1f} | {row.everything:.1f} | {row.model:.1f} |"
            for row in rows
            if row.protocol == protocol
        ]
        lines += [""]
    seen, everything = sum(row.model < row.seen for row in rows), sum(row.model < row.everything for row in rows)
    lines += [
        f"The model is below the n-grams of the tokens that it had seen in {seen} of {len(rows)} rows, and below "
        f"those of all tokens in {everything}.",
        "",
    ]
    return "\n".join(lines)


def load(name: str) -> tuple[XLMWithLMHeadModel, XLMTokenizer]:
    """Return a model, and its tokenizer with the settings that prepared its training text."""
    return XLMWithLMHeadModel.from_pretrained(name), XLMTokenizer.from_pretrained(name, preset_without_lang=None)


def main() -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("--data", "--run", "--text"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", default="xlm-clm-ende-small")
    parser.add_argument("--order", type=int, default=5)
    arguments = parser.parse_args()
    rows = compare(
        *load(arguments.model), data=arguments.data, run=arguments.run, text=arguments.text, order=arguments.order
    )
    print(report(rows, order=arguments.order))
    return 0 if all(row.model < row.seen for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
