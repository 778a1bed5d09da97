"""Compares a model with an n-gram model on the same held-out tokens.

    python scripts/compare_with_ngram.py --data DATA --text TEXT [--model xlm-clm-ende-small] [--order 5]

DATA is what ``xlm prepare`` made for the model: the n-grams of a language are counted in all of its training tokens,
in the model's vocabulary and with interpolated modified Kneser-Ney smoothing. TEXT holds the held-out parts. Each is
predicted twice:

    sentence   every line by itself; both see only the tokens before in the line, the model the language too. Every
               token is predicted, the closing ``</s>`` included.
    stream     the lines as one sequence, in windows of as many tokens as the model has positions, of which all but
               the first are predicted. The model sees the window, the n-gram its four tokens even where the window
               begins behind them.

Prints both tables as markdown. Ends with 1 unless the model's perplexity is the lower one in every row.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from deduplicate_text import HELD_OUT
from kneser_ney import KneserNey

from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.data.shards import Index, ShardSequence, tokenizer_signature
from xlm.data.text import open_text, read_lines
from xlm.scoring.logprobs import score_sequences

PROTOCOLS = ("sentence", "stream")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Perplexities on the same tokens.

    Attributes:
        part: The held-out text.
        lang: Its language.
        tokens: How many were predicted.
        ngram: Perplexity of the n-gram model.
        model: Perplexity of the model.
    """

    part: str
    lang: str
    tokens: int
    ngram: float
    model: float


def training_ids(data: Path, tokenizer: XLMTokenizer, lang: str) -> np.ndarray:
    """All training tokens of a language, each sentence with its closing ``</s>``."""
    index = Index.read(data)
    if index.signature != tokenizer_signature(tokenizer):
        sys.exit(f"{data} was prepared with another tokenizer than the model's")
    shards = ShardSequence(
        data, index.splits["train"][lang].shards, dtype=index.dtype, vocab_size=index.vocab_size, check=False
    )
    return shards.slice(0, len(shards))


def held_out_ids(path: Path, tokenizer: XLMTokenizer, lang: str) -> list[list[int]]:
    """The lines of a text, each without its opening and with its closing ``</s>``."""
    with open_text(path) as file:
        return [tokenizer.encode(line, lang=lang)[1:] for line in read_lines(file, name=path)]


def perplexities(
    model: XLMWithLMHeadModel, ngrams: KneserNey, lines: Sequence[Sequence[int]], lang: str
) -> tuple[int, float, float]:
    """How many tokens were predicted, and the perplexities of the n-gram model and of the model on them.

    The protocol is ``stream`` when the n-grams reach across sentences, and ``sentence`` otherwise.
    """
    eos = model.config.eos_token_id
    text = np.array([index for line in lines for index in line])
    by_ngrams = ngrams.log_probabilities(text)
    if ngrams.across_sentences:
        width = model.config.max_position_embeddings
        stream = [eos, *text.tolist()]
        windows = [stream[begin : begin + width] for begin in range(0, len(stream), width)]
        sequences = [window for window in windows if len(window) > 1]
        # Place t of the stream is token t - 1 of the text.
        by_ngrams = by_ngrams[np.arange(1, len(stream)) % width != 0]
    else:
        sequences = [[eos, *line] for line in lines]
    with torch.inference_mode():
        scores = score_sequences(model, sequences, lang)
    by_model = [logprob for score in scores for logprob in score.logprobs]
    assert len(by_model) == len(by_ngrams), (len(by_model), len(by_ngrams))
    tokens = len(by_model)
    return tokens, math.exp(-by_ngrams.mean()), math.exp(-math.fsum(by_model) / tokens)


def compare(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, *, data: Path, text: Path, order: int) -> list[Row]:
    """A row for each protocol, held-out part and language, in this order."""
    rows: dict[tuple[int, int, str], Row] = {}
    for lang in sorted(model.config.lang2id):
        trained_on = training_ids(data, tokenizer, lang)
        print(f"{lang}: {order}-grams of {len(trained_on):,} training tokens", file=sys.stderr)
        held_out = [held_out_ids(text / f"{part}.{lang}.txt", tokenizer, lang) for part in HELD_OUT]
        for protocol, across_sentences in enumerate((False, True)):
            ngrams = KneserNey(
                trained_on,
                vocab_size=tokenizer.vocab_size,
                order=order,
                eos_id=model.config.eos_token_id,
                across_sentences=across_sentences,
            )
            for place, (part, lines) in enumerate(zip(HELD_OUT, held_out, strict=True)):
                tokens, ngram, of_model = perplexities(model, ngrams, lines, lang)
                rows[protocol, place, lang] = Row(part=part, lang=lang, tokens=tokens, ngram=ngram, model=of_model)
                print(PROTOCOLS[protocol], rows[protocol, place, lang], file=sys.stderr)
    return [rows[key] for key in sorted(rows)]


def table(rows: Sequence[Row], *, order: int) -> str:
    """The rows as markdown."""
    head = f"| held-out part | language | tokens | {order}-gram | model |\n| --- | --- | ---: | ---: | ---: |\n"
    return head + "".join(
        f"| {row.part} | {row.lang} | {row.tokens:,} | {row.ngram:.1f} | {row.model:.1f} |\n" for row in rows
    )


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="xlm-clm-ende-small")
    parser.add_argument("--order", type=int, default=5)
    arguments = parser.parse_args()
    tokenizer = XLMTokenizer.from_pretrained(arguments.model)
    model = XLMWithLMHeadModel.from_pretrained(arguments.model)
    rows = compare(model, tokenizer, data=arguments.data, text=arguments.text, order=arguments.order)
    half = len(rows) // 2
    for protocol, part in zip(PROTOCOLS, (rows[:half], rows[half:]), strict=True):
        print(f"Perplexity by the protocol {protocol}:\n\n{table(part, order=arguments.order)}")
    return 0 if all(row.model < row.ngram for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
