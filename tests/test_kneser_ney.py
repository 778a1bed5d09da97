"""The n-gram model that the bundled model is compared with.

Oracle: ``slow_model``, which follows Chen & Goodman 1998 with dictionaries, n-gram by n-gram.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from pathlib import Path

import compare_with_ngram
import kneser_ney
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.demo_files import write_demo_files
from tests.training.runs import prepare_text, small_run
from xlm import XLMTokenizer, XLMWithLMHeadModel, perplexity
from xlm.data.batches import Order, Position, batches, open_streams
from xlm.data.shards import Index
from xlm.scoring.logprobs import token_logprobs

VOCAB_SIZE = 7
EOS = 1

texts = st.lists(st.lists(st.sampled_from([0, 2, 3, 4, 5]), max_size=8), min_size=1, max_size=12).map(
    lambda sentences: [index for sentence in sentences for index in (*sentence, EOS)]
)
"""Sentences of a few of the vocabulary's tokens; 6 never occurs."""


def histories(text: list[int], *, across_sentences: bool) -> list[list[int]]:
    """Return everything that each token may be predicted from."""
    stream = [EOS, *text]
    found = []
    for place in range(1, len(stream)):
        start = 0
        if not across_sentences:
            start = max(i for i in range(place) if stream[i] == EOS)
        found.append(stream[start:place])
    return found


class SlowModel:
    """Interpolated modified Kneser-Ney smoothing, by its definition."""

    def __init__(self, text: list[int], *, order: int, across_sentences: bool) -> None:
        self.order = order
        self.seen: Counter[tuple[int, ...]] = Counter()
        for history, token in zip(histories(text, across_sentences=across_sentences), text, strict=True):
            for length in range(min(order - 1, len(history)) + 1):
                ngram = (*history[len(history) - length :], token)
                self.seen[ngram] += 1
        self.preceding = Counter(longer[1:] for longer in self.seen)
        self.counts = {ngram: self.count(ngram) for ngram in self.seen}
        self.discounts = [self.discounts_of(length) for length in range(1, order + 1)]

    def count(self, ngram: tuple[int, ...]) -> int:
        """Return how many tokens precede an n-gram, or its occurrences for the highest order and at the start."""
        return self.preceding[ngram] or self.seen[ngram]

    def discounts_of(self, length: int) -> dict[int, float]:
        """Equation 26 of the paper, or the usual discounts if it cannot be evaluated."""
        n = Counter(count for ngram, count in self.counts.items() if len(ngram) == length)
        if all(n[k] for k in (1, 2, 3, 4)):
            y = n[1] / (n[1] + 2 * n[2])
            found = {k: k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)}
            if all(0 < found[k] < k for k in found):
                return found
        return {1: 0.5, 2: 1.0, 3: 1.5}

    def probability(self, token: int, history: list[int]) -> float:
        """Equation 24 of the paper; the lowest order is interpolated with equal probabilities."""
        history = history[len(history) - min(len(history), self.order - 1) :]
        discounts = self.discounts[len(history)]
        shorter = self.probability(token, history[1:]) if history else 1 / VOCAB_SIZE
        counts = {ngram[-1]: self.counts.get(ngram, 0) for ngram in ((*history, w) for w in range(VOCAB_SIZE))}
        taken = {w: discounts[min(count, 3)] for w, count in counts.items() if count}
        if not taken:
            return shorter
        rest = counts[token] - taken.get(token, 0)
        return (rest + sum(taken.values()) * shorter) / sum(counts.values())


def both(text: list[int], *, order: int, across: bool) -> tuple[kneser_ney.KneserNey, SlowModel]:
    fast = kneser_ney.KneserNey(
        np.array(text, np.uint16), vocab_size=VOCAB_SIZE, order=order, eos_id=EOS, across_sentences=across
    )
    return fast, SlowModel(text, order=order, across_sentences=across)


def check(text: list[int], other: list[int], *, order: int, across: bool) -> None:
    fast, slow = both(text, order=order, across=across)
    found = fast.log_probabilities(np.array(other, np.uint16))
    expected = [
        math.log(slow.probability(token, history))
        for token, history in zip(other, histories(other, across_sentences=across), strict=True)
    ]
    # Sums of a few float64 numbers in a different order.
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(text=texts, other=texts, order=st.integers(2, 4), across=st.booleans())
def test_probabilities_are_those_of_the_definition(text: list[int], other: list[int], order: int, across: bool) -> None:
    check(text, [*other, 6, EOS], order=order, across=across)


@pytest.mark.parametrize("across", [False, True])
def test_with_discounts_estimated_from_the_text(across: bool) -> None:
    generator = np.random.default_rng(0)
    text = generator.choice([0, EOS, 2, 3, 4, 5], size=400, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02]).tolist()
    _, slow = both(text, order=4, across=across)
    assert slow.discounts[3] != {1: 0.5, 2: 1.0, 3: 1.5}
    check(text, [*text[:60], 6, *text[100:120]], order=4, across=across)


@settings(max_examples=20, deadline=None)
@given(text=texts, context=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=4), across=st.booleans())
def test_probabilities_of_all_tokens_are_one_together(text: list[int], context: list[int], across: bool) -> None:
    fast, _ = both(text, order=3, across=across)
    total = sum(np.exp(fast.log_probabilities(np.array([*context, token]))[-1]) for token in range(VOCAB_SIZE))
    assert total == pytest.approx(1, abs=1e-12)


LINES = ["The small dog is sleeping on the grass.", "", "A cat reads a book.", "The dog."] * 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[XLMWithLMHeadModel, XLMTokenizer]:
    directory = write_demo_files(tmp_path_factory.mktemp("demo"))
    tokenizer = XLMTokenizer.from_pretrained(directory / "demo.pth", codes=directory / "codes")
    return XLMWithLMHeadModel.from_pretrained(directory / "demo.pth"), tokenizer


def ngrams_of(lines: list[list[int]], vocab_size: int, *, across: bool) -> kneser_ney.KneserNey:
    text = np.array([index for line in lines for index in line])
    return kneser_ney.KneserNey(text, vocab_size=vocab_size, order=3, eos_id=EOS, across_sentences=across)


def test_sentences_are_predicted_by_both_as_perplexity_does_it(
    small: tuple[XLMWithLMHeadModel, XLMTokenizer],
) -> None:
    model, tokenizer = small
    lines = [tokenizer.encode(line, lang="en")[1:] for line in LINES]
    ngrams = ngrams_of(lines, tokenizer.vocab_size, across=False)
    tokens, of_model, (of_ngrams,) = compare_with_ngram.perplexities(model, [ngrams], lines, "en")
    expected = perplexity(model, tokenizer, LINES, lang="en").languages[0]
    assert tokens == expected.tokens == sum(map(len, lines))
    assert of_model == pytest.approx(expected.perplexity, rel=1e-6)  # float32 scores, summed in a different order
    nats = -sum(ngrams.log_probabilities(np.array(line)).sum() for line in lines)
    assert of_ngrams == pytest.approx(math.exp(nats / tokens), rel=1e-9)


def test_in_the_stream_both_predict_all_but_the_first_token_of_each_window(
    small: tuple[XLMWithLMHeadModel, XLMTokenizer],
) -> None:
    model, tokenizer = small
    lines = [tokenizer.encode(line, lang="en")[1:] for line in LINES]
    ngrams = ngrams_of(lines, tokenizer.vocab_size, across=True)
    tokens, of_model, (of_ngrams,) = compare_with_ngram.perplexities(model, [ngrams], lines, "en")
    stream = [EOS, *(index for line in lines for index in line)]
    width = model.config.max_position_embeddings
    assert len(stream) > 3 * width
    of_text = ngrams.log_probabilities(np.array(stream[1:]))
    by_model, by_ngrams = [], []
    for begin in range(0, len(stream), width):
        window = stream[begin : begin + width]
        if len(window) > 1:
            with torch.inference_mode():
                by_model += token_logprobs(model, window, "en").tolist()
        by_ngrams += [of_text[begin + i - 1] for i in range(1, len(window))]
    assert tokens == len(by_model) == len(by_ngrams)
    assert of_model == pytest.approx(math.exp(-np.mean(by_model)), rel=1e-6)
    assert of_ngrams == pytest.approx(math.exp(-np.mean(by_ngrams)), rel=1e-9)


def test_the_tokens_that_a_run_saw(tmp_path: Path) -> None:
    data = prepare_text(tmp_path)
    config = small_run(data, tmp_path / "run").to_dict()
    streams = open_streams(data, Index.read(data), "train", batch_size=4, seq_len=8)
    order = Order(windows={lang: len(stream) for lang, stream in streams.items()}, seed=config["seed"])
    read: dict[str, list[int]] = {"de": [], "en": []}
    for batch in islice(batches(streams, order, Position()), 6):
        read[batch.language] += batch.input_ids.ravel().tolist()
    found = compare_with_ngram.training_ids(data, config, 6)
    for lang, (seen, everything) in found.items():
        assert len(streams[lang]) > 3  # no window was seen twice
        assert everything.tolist() == streams[lang].sequence.slice(0, len(streams[lang].sequence)).tolist()
        # The stream has additional </s>, at its start and at the start of each row.
        assert Counter(seen[seen != EOS].tolist()) == Counter(index for index in read[lang] if index != EOS)
        assert EOS in seen
