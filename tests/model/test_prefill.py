"""Prefill of prompts of different lengths, in groups.

Oracle: each prompt by itself.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.small_models import random_ids, small_model
from xlm.model.decoding import state
from xlm.model.decoding.state import CausalState, grouped_by_length
from xlm.model.inputs import prepare_inputs

LENGTHS = (3, 9, 1, 9, 4, 2, 7)


@pytest.mark.parametrize("positions", [1, 9, 20, 1000])
@pytest.mark.parametrize("langs", [None, "en", ["en", "de"] * 3 + ["en"]], ids=["none", "one", "by row"])
@torch.inference_mode()
def test_prompts_in_groups(monkeypatch: pytest.MonkeyPatch, positions: int, langs: str | list[str] | None) -> None:
    monkeypatch.setattr(state, "_GROUP_POSITIONS", positions)
    model = small_model(dtype=torch.float64)
    ids_BT, lengths_B = random_ids(len(LENGTHS), max(LENGTHS)), torch.tensor(LENGTHS)
    next_B = random_ids(1, len(LENGTHS), seed=1)[0]
    together = CausalState(model, rows=len(LENGTHS), capacity=12)
    prompts_BV = together.prefill(prepare_inputs(model.config, ids_BT, langs=langs, lengths=lengths_B))
    langs_B = None if langs is None else torch.zeros(len(LENGTHS), dtype=torch.int64)
    after_BV = together.step(next_B, langs_B)
    assert together.longest == max(LENGTHS) + 1
    for row, length in enumerate(LENGTHS):
        alone = CausalState(model, rows=1, capacity=12)
        lang = langs[row] if isinstance(langs, list) else langs
        prompt_1V = alone.prefill(prepare_inputs(model.config, ids_BT[row : row + 1, :length], langs=lang))
        # In float64, a larger difference is a mistake.
        torch.testing.assert_close(prompts_BV[row], prompt_1V[0], rtol=0, atol=1e-10)
        after_1V = alone.step(next_B[row : row + 1], None if langs_B is None else langs_B[row : row + 1])
        torch.testing.assert_close(after_BV[row], after_1V[0], rtol=0, atol=1e-10)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200))
def test_groups(lengths: list[int]) -> None:
    groups = grouped_by_length(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    padded = [len(group) * max(lengths[row] for row in group) for group in groups]
    assert all(positions >= 128 for positions in padded[:-1])
    assert len(groups) == 1 or sum(lengths[row] for row in groups[-1]) >= 128
    assert sum(padded) <= len(lengths) * max(lengths)


def test_a_long_prompt_does_not_lengthen_the_others() -> None:
    assert grouped_by_length([10] * 20 + [500] + [10] * 20) == [[20], [*range(20), *range(21, 41)]]
