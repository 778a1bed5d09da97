"""Heads of other kinds, and hooks on the head.

Oracle: the same arithmetic on hidden states, or the model's own head with the same weights.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_models import random_ids, requested, small_model
from xlm.errors import InputError
from xlm.model.head import LinearHead, chunked_logprobs, target_logprobs

V, D = 61, 24


@torch.no_grad()
def test_any_module_may_be_the_head() -> None:
    model, ids = small_model(seed=1), random_ids(2, 5)
    hidden = model.hidden(ids, langs="en")
    model.head = nn.Identity()  # type: ignore[assignment]
    assert torch.equal(model(ids, langs="en").logits, hidden)
    model.head = nn.Sequential(nn.Linear(D, 7), nn.Tanh(), nn.Linear(7, 3))  # type: ignore[assignment]
    labels = ids % 3
    output = model(ids, langs="en", labels=labels)
    assert output.logits.shape == (2, 5, 3)
    expected = nn.functional.cross_entropy(model.head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert float(output["loss"]) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(InputError, match="each from 0 to 2 or -100"):
        model(ids, langs="en", labels=ids)


@torch.no_grad()
def test_a_head_that_scores_words_serves_all_that_ours_serves() -> None:
    """A torch.nn.Linear with the weights of a LinearHead gives the same results."""
    ours, ids = small_model(seed=1, share_inout_emb=False), random_ids(3, 5)
    theirs = copy.deepcopy(ours)
    assert isinstance(ours.head, LinearHead)
    linear = nn.Linear(D, V)
    linear.load_state_dict(ours.head.state_dict())
    theirs.head = linear  # type: ignore[assignment]
    assert torch.equal(theirs(ids, langs="en").logits, ours(ids, langs="en").logits)
    assert torch.equal(
        requested(theirs(ids, langs="en", labels=ids).loss), requested(ours(ids, langs="en", labels=ids).loss)
    )
    ways: tuple[dict[str, Any], ...] = ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1})
    for options in ways:
        assert torch.equal(theirs.generate(ids, langs="en", **options), ours.generate(ids, langs="en", **options))
    hidden_ND, targets_N = ours.hidden(ids, langs="en").flatten(0, 1), ids.flatten()
    scores, expected = (
        chunked_logprobs(
            each.head, hidden_ND, targets_N, vocab_size=V, ranks=True, entropies=True, top=3, block_elements=4 * V
        )
        for each in (theirs, ours)
    )
    torch.testing.assert_close(scores.logprobs, expected.logprobs, rtol=0, atol=1e-6)
    for name in ("ranks", "top_ids"):
        assert torch.equal(getattr(scores, name), getattr(expected, name))


@torch.no_grad()
def test_scoring_leaves_what_a_head_returns_as_it_is() -> None:
    """An identity returns its input; here the hidden states are as wide as the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND, targets_N = torch.randn(5, V, generator=generator), torch.arange(5)
    before = hidden_ND.clone()
    scores = chunked_logprobs(nn.Identity(), hidden_ND, targets_N, vocab_size=V, ranks=True)
    assert torch.equal(hidden_ND, before)
    torch.testing.assert_close(scores.logprobs, target_logprobs(before, targets_N), rtol=0, atol=1e-6)


def test_a_head_that_does_not_score_words_neither_scores_nor_generates() -> None:
    model, ids = small_model(seed=1), random_ids(2, 5)
    model.head = nn.Linear(D, 3)  # type: ignore[assignment]
    ways: tuple[dict[str, Any], ...] = ({}, {"num_beams": 2}, {"do_sample": True})
    for options in ways:
        with pytest.raises(InputError, match="does not score the words") as caught:
            model.generate(ids, langs="en", **options)
        assert (caught.value.where, caught.value.found) == ("model.head", "3 scores per position")
    with pytest.raises(InputError, match="does not score the words"), torch.no_grad():
        chunked_logprobs(model.head, torch.randn(4, D), torch.arange(4), vocab_size=V)


@pytest.mark.parametrize("asm", [False, True], ids=["linear", "adaptive"])
@torch.no_grad()
def test_hooks_on_the_head_fire_wherever_it_is_used(asm: bool) -> None:
    """A hook that makes one word the most likely changes logits, loss, generation and scoring."""
    model, ids = small_model(seed=1, asm=asm, asm_cutoffs=(20, 40)), random_ids(2, 5)
    favourite = 33

    def favour(module: nn.Module, args: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., favourite] = 30.0
        return output

    hook = model.head.register_forward_hook(favour)
    labels = torch.full_like(ids, favourite)
    assert (model(ids, langs="en").logits.argmax(-1) == favourite).all()
    assert float(model(ids, langs="en", labels=labels)["loss"]) < 1e-5
    assert (model.generate(ids, langs="en", max_new_tokens=2)[:, 5:] == favourite).all()
    hidden_ND = model.hidden(ids, langs="en").flatten(0, 1)
    scored = chunked_logprobs(model.head, hidden_ND, labels.flatten(), vocab_size=V, ranks=True)
    assert scored.logprobs.min() > -1e-5
    assert scored.ranks is not None
    assert scored.ranks.tolist() == [1] * 10
    hook.remove()
    assert (model(ids, langs="en").logits.argmax(-1) != favourite).any()
