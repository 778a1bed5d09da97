"""Noise. Oracles: the original's answers for numpy's seeds and its frequencies, and what holds for every sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from xlm.data.batches import RawNumbers
from xlm.data.noise import Noise
from xlm.data.sentences import Ids, padded


class LegacyNumbers:
    """numpy's old generator, which the original uses."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def random(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._state.random_sample(shape)

    def integers(self, low: int, high: int) -> int:
        return int(self._state.randint(low, high))


def test_noise_is_that_of_the_original(reference: Path) -> None:
    recorded = load_file(reference / "unmt" / "noise.safetensors")
    results = [name.removesuffix(".ids") for name in recorded if ".seed" in name and name.endswith(".ids")]
    assert len(results) == 75
    for name in results:
        case, seed, function = name.split(".", 2)
        noise = Noise()
        if function.startswith("add_noise_"):
            shuffle, drop, blank = map(float, function.removeprefix("add_noise_").split("_"))
            noise = Noise(word_shuffle=shuffle, word_dropout=drop, word_blank=blank)
        apply = {"word_shuffle": noise.shuffle, "word_dropout": noise.drop, "word_blank": noise.blank}.get(
            function, noise.apply
        )
        inputs = recorded[f"{case}.in_ids"], recorded[f"{case}.in_lengths"]
        ids, lengths = apply(*inputs, LegacyNumbers(int(seed.removeprefix("seed"))))
        assert np.array_equal(ids, recorded[f"{name}.ids"]), name
        assert np.array_equal(lengths, recorded[f"{name}.lengths"]), name


_SENTENCES = st.lists(st.lists(st.integers(6, 99), min_size=1, max_size=12), min_size=1, max_size=6)


@given(_SENTENCES, st.integers(0, 2**32))
def test_what_every_noised_sentence_keeps(words: list[list[int]], seed: int) -> None:
    ids, lengths = padded([np.array([1, *sentence, 1]) for sentence in words], pad_id=2)
    before = ids.copy()
    noised, noised_lengths = Noise().apply(ids, lengths, RawNumbers(seed, "noise", 0))
    assert np.array_equal(ids, before), "the input changed"
    for sentence, row, length in zip(words, noised, noised_lengths, strict=True):
        assert row[0] == row[length - 1] == 1
        assert (row[length:] == 2).all()
        inner = row[1 : length - 1].tolist()
        assert 1 <= len(inner) <= len(sentence)
        remaining = list(sentence)
        for token in inner:
            if token != 5:
                remaining.remove(token)


@given(st.integers(2, 20), st.integers(0, 2**32))
def test_a_shuffle_moves_no_token_three_places(count: int, seed: int) -> None:
    ids, lengths = padded([np.arange(count + 2) + 10], pad_id=2)
    shuffled, _ = Noise().shuffle(ids, lengths, RawNumbers(seed, "noise", 0))
    assert np.abs(shuffled - ids).max() <= 2


def _drawn(count: int, draws: int) -> tuple[Ids, Ids]:
    return padded([np.array([1, *range(10, 10 + count), 1])] * draws, pad_id=2)


@pytest.mark.parametrize("case", ["shuffle_12_words", "shuffle_5_words"])
def test_frequencies_of_the_shuffle(reference: Path, case: str) -> None:
    recorded = json.loads((reference / "unmt" / "noise.json").read_text())["frequencies"][case]
    theirs = np.array(recorded["moved_from_row_to_column"])
    count, draws = len(theirs), recorded["draws"]
    ids, _ = Noise().shuffle(*_drawn(count, draws), RawNumbers(3, "noise", 0))
    ours = np.stack([np.bincount(column - 10, minlength=count) for column in ids[:, 1:-1].T], 1)
    _check_equal_rates(ours, theirs, draws)


def test_frequencies_of_dropping_and_blanking(reference: Path) -> None:
    recorded = json.loads((reference / "unmt" / "noise.json").read_text())["frequencies"]
    theirs = recorded["dropout_12_words"]
    _, lengths = Noise().drop(*_drawn(12, theirs["draws"]), RawNumbers(4, "noise", 0))
    left = {int(words): count for words, count in theirs["words_left"].items()}
    ours = np.bincount(lengths - 2, minlength=13)
    _check_equal_rates(ours, np.array([left.get(words, 0) for words in range(13)]), theirs["draws"])
    ids, _ = Noise().blank(*_drawn(12, 10_000), RawNumbers(5, "noise", 0))
    assert abs(float((ids[:, 1:-1] == 5).mean()) - 0.1) < 5 * (0.1 * 0.9 / 120_000) ** 0.5


def _check_equal_rates(ours: Any, theirs: Any, draws: int) -> None:
    """Counts of ``draws`` draws each, which differ by less than five standard deviations of the difference."""
    rate = (ours + theirs) / (2 * draws)
    deviation = np.sqrt(2 * draws * rate * (1 - rate))
    assert (np.abs(ours - theirs) <= 5 * deviation + 1).all()
