"""Word embeddings in place of ids.

Oracle: the model's results for the ids whose embeddings they are; live transformers for embeddings of no token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from tests.model.transformers_peer import peer_of
from xlm import XLMModel, XLMWithLMHeadModel
from xlm.errors import InputError

B, T = 3, 7
LENGTHS = torch.tensor([7, 2, 4])
MASK = (torch.arange(T) < LENGTHS[:, None]).long()
INPUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "right padding": {"attention_mask": MASK},
    "left padding": {"attention_mask": MASK.flip(1)},
    "positions": {"position_ids": torch.randint(0, 16, (B, T), generator=torch.Generator().manual_seed(3))},
}


def embedded(model: XLMModel, ids: Tensor) -> Tensor:
    embeddings: Tensor = model.transformer.embeddings.word(ids)
    return embeddings


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_the_results_of_the_ids(causal: bool, inputs: str) -> None:
    model, ids = small_model(causal=causal), random_ids(B, T)
    body = XLMModel(model.config).eval()
    body.load_state_dict({name: w for name, w in model.state_dict().items() if name.startswith("transformer.")})
    found = model(inputs_embeds=embedded(model, ids), langs="en", labels=ids, **INPUTS[inputs])
    expected = model(ids, langs="en", labels=ids, **INPUTS[inputs])
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(requested(found.loss), requested(expected.loss))
    hidden = body(inputs_embeds=embedded(body, ids), langs="en", **INPUTS[inputs]).last_hidden_state
    assert torch.equal(hidden, body(ids, langs="en", **INPUTS[inputs]).last_hidden_state)


@pytest.mark.parametrize("padded", [False, True])
def test_transformers_and_the_gradient_of_the_embeddings(padded: bool) -> None:
    ours = small_model()
    theirs = peer_of(ours)
    langs, lengths = torch.ones(B, T, dtype=torch.int64), LENGTHS if padded else None
    valid = MASK.bool() if padded else torch.ones(B, T, dtype=torch.bool)
    results = []
    for model in (ours, theirs):
        embeds = torch.randn(B, T, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()
        logits = model(inputs_embeds=embeds, langs=langs, lengths=lengths).logits
        (gradient,) = torch.autograd.grad(logits[valid].square().mean(), [embeds])
        results.append((logits.detach()[valid], gradient))
    (logits, gradient), (their_logits, their_gradient) = results
    assert relative_error(logits, their_logits) < 2e-6
    assert relative_error(gradient, their_gradient) < 2e-5


@torch.no_grad()
def test_with_a_cache() -> None:
    model, ids = small_model(), random_ids(B, T)
    cache = model.new_cache(B)
    for part in (ids[:, :3], ids[:, 3:]):
        logits = model(inputs_embeds=embedded(model, part), langs="en", cache=cache).logits
    torch.testing.assert_close(logits, model(ids, langs="en").logits[:, 3:])


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "padded": {"lengths": LENGTHS},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "lengths": LENGTHS},
    "sampled": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_generate_returns_the_new_tokens(options: str) -> None:
    model, ids = small_model(), random_ids(B, T)
    expected = model.continuations(ids, langs="en", max_new_tokens=5, **OPTIONS[options])
    found = model.generate(inputs_embeds=embedded(model, ids), langs="en", max_new_tokens=5, **OPTIONS[options])
    rows = [continuation.tokens for continuation in expected]
    assert [row[: len(tokens)] for row, tokens in zip(found.tolist(), rows, strict=True)] == [list(r) for r in rows]
    assert found.shape[1] == max(map(len, rows))
    assert all(not any(x != 2 for x in row[len(t) :]) for row, t in zip(found.tolist(), rows, strict=True))


def test_only_new_tokens_count_as_repeated() -> None:
    model, ids = small_model(), random_ids(1, T)
    embeds = embedded(model, ids)
    repeated = model.generate(inputs_embeds=embeds, langs="en", max_new_tokens=9, repetition_penalty=1e6)[0].tolist()
    assert len(set(repeated)) == len(repeated)


def test_stream_and_continuations() -> None:
    model, ids = small_model(), random_ids(1, T)
    embeds = embedded(model, ids)
    streamed = list(model.stream(inputs_embeds=embeds, langs="en", max_new_tokens=4))
    (continuation,) = model.continuations(inputs_embeds=embeds, langs="en", max_new_tokens=4)
    assert streamed == list(continuation.tokens)
    assert continuation.tokens == model.continuations(ids, langs="en", max_new_tokens=4)[0].tokens


def test_a_soft_prompt_learns() -> None:
    """Vectors of no token before the text: only they are trained, and the loss goes down."""
    model, ids = small_model().requires_grad_(False), random_ids(4, 6)
    prompt = nn.Parameter(torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(1)))
    optimiser = torch.optim.Adam([prompt], lr=0.3)
    labels = torch.cat([torch.full((4, 3), -100), ids], 1)
    losses = []
    for _ in range(8):
        embeds = torch.cat([prompt.expand(4, -1, -1), embedded(model, ids)], 1)
        loss = model(inputs_embeds=embeds, langs="en", labels=labels).loss
        assert loss is not None
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(
    ("embeds", "found"),
    [
        (torch.zeros(2, 5), "torch.float32 of shape (2, 5)"),
        (torch.zeros(2, 5, 23), "torch.float32 of shape (2, 5, 23)"),
        (torch.zeros(2, 5, 24).long(), "torch.int64 of shape (2, 5, 24)"),
        (torch.zeros(2, 0, 24), "(2, 0, 24)"),
        (torch.zeros(2, 5, 24).double(), "torch.float64"),
        ([[1.0]], "list"),
    ],
)
def test_wrong_embeddings(embeds: Any, found: str) -> None:
    for call in (small_model(), XLMModel(small_config()), small_model().generate):
        with pytest.raises(InputError) as caught:
            call(inputs_embeds=embeds, langs="en")
        assert caught.value.where == "inputs_embeds"
        assert str(caught.value.found) == found


def test_ids_and_embeddings_exclude_each_other() -> None:
    model, ids = small_model(), random_ids(2, 5)
    with pytest.raises(InputError, match="both given"):
        model(ids, inputs_embeds=embedded(model, ids), langs="en")
    with pytest.raises(InputError, match="input_ids"):
        model(langs="en")
    with pytest.raises(InputError, match="too long") as caught:
        model(inputs_embeds=torch.zeros(1, 17, 24), langs="en")
    assert caught.value.where == "inputs_embeds"


def test_packed_models_take_them_too() -> None:
    model, ids = small_model(), random_ids(2, 5)
    packed: XLMWithLMHeadModel = model.for_inference()
    with torch.no_grad():
        found = packed(inputs_embeds=embedded(model, ids), langs="en").logits
        torch.testing.assert_close(found, packed(ids, langs="en").logits)
