"""Batches of sentences. Oracles: the original's batches, and the sentences themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.sentences import Batching, Ids, Sentences, usable


class LegacyOrder:
    """Permutations of numpy's old generator, which the original uses."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def __call__(self, count: int) -> Ids:
        order = np.arange(count)
        self._state.shuffle(order)
        return order


class InMemory:
    def __init__(self, ids: list[int]) -> None:
        self._ids = np.array(ids, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def slice(self, begin: int, end: int) -> Ids:
        return self._ids[begin:end]


def test_batches_are_those_of_the_original(reference: Path) -> None:
    recorded = json.loads((reference / "unmt" / "batching.json").read_text())
    first, second = np.array(recorded["lengths_1"]), np.array(recorded["lengths_2"])
    mono, pairs = usable([first], longest=20), usable([first, second], longest=20)
    assert mono.tolist() == recorded["kept_mono"]
    assert pairs.tolist() == recorded["kept_para"]
    lengths = {"mono": first[mono] + 2, "para": first[pairs] + second[pairs] + 4}
    assert len(recorded["cases"]) == 28
    for case in recorded["cases"]:
        batching = Batching(
            batch_size=case["batch_size"],
            tokens_per_batch=max(case["tokens_per_batch"], 0),
            max_batch_size=case["max_batch_size"],
            group_by_size=case["group_by_size"],
        )
        order = LegacyOrder(case["seed"])
        # The original draws both from one generator for pairs, and from two seeded alike for one text.
        cut = order if case["dataset"] == "para" else LegacyOrder(case["seed"])
        batches = batching.divide(lengths[case["dataset"]], order if case["shuffle"] else None)
        assert [batching.cut(batch, cut).tolist() for batch in batches] == case["batches"], case


@given(st.lists(st.lists(st.integers(6, 99), max_size=5), min_size=1, max_size=9), st.data())
def test_sentences_are_read_as_they_stand(words: list[list[int]], data: st.DataObject) -> None:
    sentences = Sentences(InMemory([token for sentence in words for token in (*sentence, 1)]))
    assert sentences.lengths.tolist() == [len(sentence) for sentence in words]
    chosen = data.draw(st.lists(st.integers(0, len(words) - 1), min_size=1, max_size=5))
    ids, lengths = sentences.batch(chosen)
    for index, row, length in zip(chosen, ids.tolist(), lengths.tolist(), strict=True):
        assert row == [1, *words[index], 1, *[2] * (len(row) - length)]
        assert length == len(words[index]) + 2


@given(
    lengths=st.lists(st.integers(3, 30), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    tokens=st.sampled_from([0, 40, 200]),
    seed=st.integers(0, 9),
)
def test_every_sentence_comes_once_a_pass(lengths: list[int], batch_size: int, tokens: int, seed: int) -> None:
    batching = Batching(batch_size=batch_size, tokens_per_batch=tokens)
    batches = batching.divide(np.array(lengths), LegacyOrder(seed))
    assert sorted(index for batch in batches for index in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)
    if not tokens:
        assert max(map(len, batches)) <= batch_size
