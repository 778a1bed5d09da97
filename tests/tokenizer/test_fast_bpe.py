"""BPE of many words at once. Oracle: BPE of one word, which is held against the plain algorithm and fastBPE."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.small import MERGES, VOCABULARY, merges_of_choices
from xlm.tokenizer.bpe import BPE, read_codes
from xlm.tokenizer.fast import batch_bpe as batch_words_module
from xlm.tokenizer.fast.arrays import RaggedArray
from xlm.tokenizer.fast.batch_bpe import MAX_WORD_LENGTH, BatchBPE, BatchWords

Merge = tuple[str, str]


def pieces_at_once(bpe: BPE, words: list[str]) -> list[list[str]]:
    batch = BatchBPE(bpe)
    symbols, counts = batch.split(words)
    all_pieces = batch.pieces(np.arange(batch.symbols))
    pieces = [all_pieces[symbol] for symbol in symbols.tolist()]
    return [pieces[start:end] for start, end in pairwise([0, *counts.cumsum().tolist()])]


@settings(max_examples=500, deadline=None)
@given(
    choices=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25),
    words=st.lists(st.text("abcä\ud800🚴", min_size=1, max_size=MAX_WORD_LENGTH), min_size=1),
)
def test_equals_one_after_the_other(choices: list[tuple[int, int]], words: list[str]) -> None:
    bpe = BPE(merges_of_choices(choices))
    assert bpe.learnt
    assert pieces_at_once(bpe, words) == [bpe.split(word) for word in words]


def test_merges_of_a_piece_that_looks_like_the_end_of_a_word_are_not_learnt() -> None:
    # "a</w>" written out is the same piece as an a that ends a word: as text, pieces know no difference.
    assert BPE((("<", "/"), ("</", "w"), ("</w", ">"))).learnt
    bpe = BPE((("<", "/"), ("</", "w"), ("</w", ">"), ("a", "</w>"), ("b", "a</w>")))
    assert not bpe.learnt
    batch: BatchWords[str] = BatchWords(bpe, of_word=bpe.split, of_pieces=iter, dtype="object")
    words = ["ba</w>x", "ba", "a", "a</w>"] * 100
    assert RaggedArray(*batch(words)).lists() == [bpe.split(word) for word in words]


@pytest.mark.parametrize("share", [None, 0.3, 0.9])
@pytest.mark.parametrize("unknown", [None, -1])
def test_values_of_words(share: float | None, unknown: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_words_module, "_FEW", 0)
    generator = random.Random(3)
    limits = None if share is None else frozenset(t for t in VOCABULARY.tokens if generator.random() < share)
    bpe = BPE(MERGES, limits)

    def of_pieces(pieces: Iterable[str]) -> list[Any]:
        return [piece if unknown is None else VOCABULARY.ids.get(piece, unknown) for piece in pieces]

    def of_word(word: str) -> tuple[Any, ...]:
        return tuple(of_pieces(bpe.split(word)))

    dtype = "object" if unknown is None else "int32"
    batch: BatchWords[Any] = BatchWords(bpe, of_word=of_word, of_pieces=of_pieces, dtype=dtype)
    words = ["".join(generator.choices("thedogrunißuläsz中", k=generator.randint(1, 60))) for _ in range(3000)]
    assert RaggedArray(*batch(words)).lists() == [list(of_word(word)) for word in words]
    assert RaggedArray(*batch([])).lists() == []


def test_equals_one_after_the_other_on_all_words_of_the_reference_texts(reference: Path) -> None:
    bpe = BPE(read_codes(reference / "published/codes_ende"))
    words: set[str] = set()
    for path in (reference / "tokenizer/text").glob("*.txt"):
        words.update(word for word in path.read_bytes().decode("utf-8").split() if len(word) <= MAX_WORD_LENGTH)
    ordered = sorted(words)
    assert len(ordered) > 100_000
    assert pieces_at_once(bpe, ordered) == [bpe.split(word) for word in ordered]


def test_pairs_that_share_a_bucket_are_spread_by_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file can contain any merges, so it must not be able to make the search for multipliers endless."""
    known = 0x9E3779B97F4A7C15
    rights = np.arange(60_000, dtype=np.uint64)
    pairs = []
    for left in range(3000):
        buckets = ((np.uint64(left << 32) | rights) * np.uint64(known)) >> np.uint64(64 - 12)
        pairs += [(left, int(right)) for right in rights[buckets == 7][left % 5 : left % 5 + 1]]
    numbers = itertools.chain([known], map(random.Random(0).getrandbits, itertools.repeat(64)))
    drawn = 0

    def draw(bits: int) -> int:
        nonlocal drawn
        drawn += 1
        return next(numbers)

    monkeypatch.setattr("secrets.randbits", draw)
    lefts_P, rights_P = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    ranks = batch_words_module._PairRanks(lefts_P, rights_P)
    assert drawn > batch_words_module._MAX_ROUNDS, "the first hash does not suffice"
    assert (ranks.ranks(lefts_P, rights_P) == np.arange(len(pairs))).all()
    assert (ranks.ranks(lefts_P + 1, rights_P + 70_000) == batch_words_module._NO_RANK).all()
