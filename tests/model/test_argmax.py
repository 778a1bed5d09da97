"""The best word of each row. Oracle: torch's own ``argmax``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.model.decoding.sampling import argmax


@given(st.integers(1, 5), st.integers(1, 4000), st.integers(0, 2**32 - 1))
def test_scores_that_differ(rows: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores_BV = torch.stack([torch.randperm(words, generator=generator) for _ in range(rows)]).float()
    assert torch.equal(argmax(scores_BV), scores_BV.argmax(1))
    assert torch.equal(argmax(scores_BV - 1e9), (scores_BV - 1e9).argmax(1))


@pytest.mark.parametrize("words", [1024, 1025, 1536, 1537, 2047, 2048])
def test_every_place(words: int) -> None:
    scores_BV = torch.eye(words)
    assert argmax(scores_BV).tolist() == list(range(words))
    scores_BV[scores_BV == 0] = float("-inf")
    assert argmax(scores_BV).tolist() == list(range(words))
    scores_BV = torch.where(torch.eye(words, dtype=torch.bool), float("nan"), 3.0)
    assert argmax(scores_BV).tolist() == list(range(words))


@pytest.mark.parametrize("words", [3, 3000])
def test_of_equal_scores_one_is_taken(words: int) -> None:
    assert argmax(torch.full((2, words), float("-inf"))).tolist() == [0, 0]
    scores_BV = torch.zeros(1, words)
    scores_BV[0, [1, words - 1]] = 1
    assert argmax(scores_BV).tolist() == [1]
