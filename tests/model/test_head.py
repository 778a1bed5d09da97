"""Log-probabilities of target words from hidden states, block by block.

Oracle: the definitions in float64 on all logits at once; for memory, the sizes of all tensors that torch creates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.model.small_models import small_model
from xlm.errors import ConfigError
from xlm.model.head import LinearHead, TargetScores, chunked_logprobs
from xlm.model.lm import XLMWithLMHeadModel

V, D = 61, 24
HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}
each_head = pytest.mark.parametrize("head", HEADS)


def some(positions: int, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(positions)
    hidden_ND = torch.randn(positions, D, generator=generator).to(dtype)
    return hidden_ND, torch.randint(0, V, (positions,), generator=generator)


def scores(model: XLMWithLMHeadModel, hidden_ND: Tensor, targets_N: Tensor, **options: Any) -> TargetScores:
    with torch.inference_mode():
        return chunked_logprobs(model.head, hidden_ND, targets_N, vocab_size=model.config.vocab_size, **options)


def by_definition(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights_NV = logits_NV.double().exp()
    shares_NV = weights_NV / weights_NV.sum(1, keepdim=True)
    target_N1 = targets_N[:, None]
    return (
        shares_NV.gather(1, target_N1)[:, 0].log(),
        (logits_NV > logits_NV.gather(1, target_N1)).sum(1) + 1,
        -(shares_NV * shares_NV.log()).sum(1),
    )


@each_head
@pytest.mark.parametrize("block_elements", [1, V, 16 * V, 23 * V, 10**7])
def test_blocks_give_what_the_definitions_give(head: str, block_elements: int) -> None:
    model = small_model(**HEADS[head])
    hidden_ND, targets_N = some(70)
    with torch.inference_mode():
        logprobs, ranks, entropies = by_definition(model.logits(hidden_ND), targets_N)
    found = scores(model, hidden_ND, targets_N, ranks=True, entropies=True, block_elements=block_elements)
    assert found.ranks is not None
    assert found.entropies is not None
    # Float32 sums of 61 numbers; the logits, of width 24, have one rounding or two.
    torch.testing.assert_close(found.logprobs.double(), logprobs, atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(found.entropies.double(), entropies, atol=3e-6, rtol=1e-6)
    assert torch.equal(found.ranks, ranks)
    assert int(ranks.min()) < 10 < int(ranks.max())
    alone = scores(model, hidden_ND, targets_N, block_elements=block_elements)
    assert (alone.ranks, alone.entropies) == (None, None)
    torch.testing.assert_close(alone.logprobs, found.logprobs, atol=1e-6, rtol=0)


@each_head
@pytest.mark.parametrize("block_elements", [1, 16 * V, 10**7])
@pytest.mark.parametrize("entropies", [False, True])
def test_the_most_likely_words_are_those_of_a_sort(head: str, block_elements: int, entropies: bool) -> None:
    model = small_model(**HEADS[head])
    hidden_ND, targets_N = some(70)
    with torch.inference_mode():
        logprobs_NV = model.logits(hidden_ND).double().log_softmax(1)
    by_logprob = logprobs_NV.sort(1, descending=True)
    for K in (1, 5, V, V + 9):
        found = scores(model, hidden_ND, targets_N, top=K, entropies=entropies, block_elements=block_elements)
        assert found.top_ids is not None
        assert found.top_logprobs is not None
        assert found.top_ids.shape == (70, min(K, V))
        assert torch.equal(found.top_ids, by_logprob.indices[:, :K])
        # As for the log-probabilities of the targets above.
        torch.testing.assert_close(found.top_logprobs.double(), by_logprob.values[:, :K], atol=3e-6, rtol=1e-6)
        alone = scores(model, hidden_ND, targets_N, entropies=entropies, block_elements=block_elements)
        assert torch.equal(alone.logprobs, found.logprobs)
        assert (alone.top_ids, alone.top_logprobs) == (None, None)


@each_head
def test_no_positions_no_scores(head: str) -> None:
    found = scores(small_model(**HEADS[head]), *some(0), ranks=True, entropies=True, top=3)
    assert found.ranks is not None
    assert found.entropies is not None
    assert found.top_ids is not None
    assert found.top_ids.shape == (0, 3)
    assert found.logprobs.shape == found.ranks.shape == found.entropies.shape == (0,)


def test_words_of_one_score_share_the_best_rank() -> None:
    model = small_model()
    with torch.no_grad():
        model.transformer.embeddings.word.weight.zero_()
        cast(LinearHead, model.head).bias.zero_()[:3] = torch.tensor([2.0, 1.0, 1.0])
    hidden_ND, _ = some(4)
    found = scores(model, hidden_ND, torch.tensor([0, 1, 2, 50]), ranks=True)
    assert found.ranks is not None
    assert found.ranks.tolist() == [1, 2, 2, 4]


@pytest.mark.parametrize("block_elements", [None, 9, 9 * 16])
def test_scores_far_apart_stay_finite(block_elements: int | None) -> None:
    model = small_model()
    with torch.no_grad():
        cast(LinearHead, model.head).bias.copy_(torch.linspace(-2e4, 2e4, V))
    found = scores(model, *some(9), entropies=True, block_elements=block_elements)
    assert found.entropies is not None
    assert bool(found.logprobs.isfinite().all())
    assert bool((found.logprobs <= 0).all())
    # The last word has all probability; its neighbour is 667 nats below it.
    assert found.entropies.abs().max() < 1e-6


@each_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_of_the_result(head: str, dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype, **HEADS[head])
    hidden_ND, targets_N = some(40, dtype=dtype)
    found = scores(model, hidden_ND, targets_N, entropies=True)
    assert found.entropies is not None
    exact = small_model(dtype=torch.float64, **HEADS[head])
    exact.load_state_dict(model.state_dict())
    with torch.inference_mode():
        logprobs, _, entropies = by_definition(exact.logits(hidden_ND.double()), targets_N)
    assert found.logprobs.dtype == found.entropies.dtype == torch.promote_types(dtype, torch.float32)
    # A linear head sums products of bfloat16 in float32, whose rounding is all there is; an adaptive head is torch's
    # and rounds twice to bfloat16, which for logits up to 8 has steps of 2 ** -5.
    bound = 1e-12 if dtype == torch.float64 else 2**-4 if head == "adaptive" else 3e-6
    assert (found.logprobs.double() - logprobs).abs().max() < bound
    assert (found.entropies.double() - entropies).abs().max() < bound


@pytest.mark.parametrize("head", ["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_make_ranks_better(head: str, dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype, **{**HEADS[head], "vocab_size": 9001})
    hidden_ND, _ = some(30, dtype=dtype)
    targets_N = torch.arange(30) * 300
    found = scores(model, hidden_ND, targets_N, ranks=True)
    exact = small_model(dtype=torch.float64, **{**HEADS[head], "vocab_size": 9001})
    exact.load_state_dict(model.state_dict())
    with torch.inference_mode():
        logits_NV = exact.logits(hidden_ND.double())
    logprobs, ranks, _ = by_definition(logits_NV, targets_N)
    assert found.ranks is not None
    # Float32 distinguishes all words but neighbours.
    assert (found.ranks - ranks).abs().max() <= 1
    assert (found.logprobs.double() - logprobs).abs().max() < 5e-6
    _, of_rounded, _ = by_definition(logits_NV.to(dtype), targets_N)
    assert (of_rounded - ranks).sum() < -10  # 30 positions; what rounding would do


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@each_head
def test_logits_are_never_more_than_a_block(head: str) -> None:
    model = small_model(**HEADS[head])
    hidden_ND, targets_N = some(2000)
    block = 16 * V
    with torch.no_grad(), Largest() as largest:  # type: ignore[no-untyped-call]
        chunked_logprobs(
            model.head,
            hidden_ND,
            targets_N,
            vocab_size=V,
            ranks=True,
            entropies=True,
            top=1,
            block_elements=block,
        )
    # Views of the weights and of the hidden states count too.
    assert largest.elements <= max(block, V * D, 2000 * D) < 2000 * V


CHANGES: dict[str, Callable[[Any], object]] = {
    "another parameter": lambda m: setattr(
        m.transformer.embeddings.word, "weight", nn.Parameter(2 * m.transformer.embeddings.word.weight.detach())
    ),
    "another table": lambda m: setattr(m.transformer.embeddings, "word", nn.Embedding(V, D)),
    "other embeddings": lambda m: setattr(
        m.transformer, "embeddings", copy.deepcopy(small_model(seed=7).transformer.embeddings)
    ),
    "another transformer": lambda m: setattr(m, "transformer", small_model(seed=7).transformer),
    "assigned weights": lambda m: m.load_state_dict(small_model(seed=7).state_dict(), assign=True),
    "loaded weights": lambda m: m.load_state_dict(small_model(seed=7).state_dict()),
    "a new head": lambda m: setattr(m, "head", LinearHead(m.config)),
    "another type": lambda m: m.double().float(),
    "memory for a model without": lambda m: m.to("meta").to_empty(device="cpu"),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_tied_head_follows_the_word_embeddings(change: str) -> None:
    model = small_model(seed=1)
    CHANGES[change](model)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    assert isinstance(model.head, LinearHead)
    assert model.head.projection is model.transformer.embeddings.word.weight
    hidden_ND, _ = some(3)
    expected = hidden_ND @ model.transformer.embeddings.word.weight.T + model.head.bias
    torch.testing.assert_close(model.head(hidden_ND), expected)
    torch.testing.assert_close(model.logits(hidden_ND), expected)


def test_gradients_of_both_uses_add_up() -> None:
    model, (hidden_ND, _) = small_model(seed=1), some(3)
    torch.autograd.backward(model.head(hidden_ND).sum())
    expected = hidden_ND.sum(0).expand(V, D)
    torch.testing.assert_close(model.transformer.embeddings.word.weight.grad, expected)
    assert [name for name, _ in model.head.named_parameters()] == ["bias"]


def test_a_tied_head_without_a_model_has_nothing_to_compute_with() -> None:
    with pytest.raises(ConfigError, match="without a model"):
        LinearHead(small_model().config)(some(3)[0])
    alone = LinearHead(small_model(share_inout_emb=False).config)
    assert alone(some(3)[0]).shape == (3, V)
