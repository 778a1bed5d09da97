"""The best words of each row. Oracle: torch's own ``topk``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.model.decoding.beam_search import topk


@given(st.integers(1, 4), st.integers(8, 5000), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_scores_that_differ(rows: int, words: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores_BV = torch.stack([torch.randperm(words, generator=generator) for _ in range(rows)]).float()
    for scores in (scores_BV, scores_BV.sort(1).values, scores_BV - 1e9):
        found_Bk, ids_Bk = topk(scores, k)
        assert torch.equal(found_Bk, scores.topk(k).values)
        assert torch.equal(scores.gather(1, ids_Bk), found_Bk)
        assert all(len(set(ids)) == k for ids in ids_Bk.tolist())


@pytest.mark.parametrize("words", [3, 511, 512, 640, 700])
def test_every_place(words: int) -> None:
    for best, others in ((1.0, 0.0), (0.0, float("-inf")), (float("nan"), 3.0)):
        scores_BV = torch.where(torch.eye(words, dtype=torch.bool), best, others)
        assert topk(scores_BV, 2)[1][:, 0].tolist() == list(range(words))
