"""The loss without the logits.

Oracle: the model's own loss, and its gradients by torch's autograd, in float64.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

import xlm.model.linear_cross_entropy as module
from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.errors import InputError
from xlm.training.objectives.clm import stream_loss

HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}
B, T = 3, 7


@pytest.mark.parametrize("small", [0.0, 1e9])  # each column's maximum is taken off its scores, or never
@pytest.mark.parametrize(("rows", "width"), [(1, 61), (5, 9), (100, 60)])
@pytest.mark.parametrize("head", HEADS)
def test_the_model_s_own_loss_and_gradients(
    head: str, rows: int, width: int, small: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCORES_CPU", 61 * rows)  # 61 words
    monkeypatch.setattr(module, "_BLOCK_CPU", width)
    monkeypatch.setattr(module, "_SMALL_SCORE", small)
    ids = random_ids(B, T)
    dtype = torch.float32 if head == "adaptive" else torch.float64
    expected_model, found_model = (small_model(dtype=dtype, **HEADS[head]) for _ in range(2))
    expected = requested(expected_model(ids, langs="en", labels=ids).loss)
    found = stream_loss(found_model, ids, 1)
    torch.autograd.backward(expected * 3)
    torch.autograd.backward(found * 3)  # what comes after the loss reaches its gradients
    tolerance = 1e-6 if head == "adaptive" else 1e-12
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    gradients = {name: parameter.grad for name, parameter in expected_model.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
    for name, parameter in found_model.named_parameters():
        expected_grad = gradients[name]
        assert (parameter.grad is None) == (expected_grad is None), name
        if parameter.grad is not None and expected_grad is not None:
            # Against the largest gradient: a key bias's is zero but for rounding.
            assert float((parameter.grad - expected_grad).abs().max()) < 10 * tolerance * largest, name


@pytest.mark.parametrize("small", [0.0, 1e9])
@pytest.mark.parametrize("needed", [("hidden",), ("weight",), ("bias",), ("hidden", "bias")])
def test_gradients_that_nobody_needs_are_not_computed(
    needed: tuple[str, ...], small: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SMALL_SCORE", small)
    torch.manual_seed(0)
    tensors = {"hidden": torch.randn(5, 3), "weight": torch.randn(7, 3), "bias": torch.randn(7)}
    tensors = {name: tensor.double().requires_grad_(name in needed) for name, tensor in tensors.items()}
    targets = torch.randint(7, (5,))
    add = Mock(side_effect=module._add_product)
    monkeypatch.setattr(module, "_add_product", add)
    loss = module.linear_cross_entropy(tensors["hidden"], tensors["weight"], tensors["bias"], targets)
    logits = tensors["hidden"] @ tensors["weight"].T + tensors["bias"]
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets), [tensors[n] for n in needed])
    torch.autograd.backward(loss)
    for name, gradient in zip(needed, expected, strict=True):
        found = tensors[name].grad
        assert found is not None
        assert float((found - gradient).abs().max()) < 1e-12, name
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == list(needed)
    # The rows of each product: tokens for the hidden states, and the model's width for the weight; the gradient of the
    # bias is one more.
    rows = [5] * ("hidden" in needed) + [3 * ("weight" in needed) + 1] * bool({"weight", "bias"} & {*needed})
    assert [len(call.args[0]) for call in add.call_args_list] == rows


@pytest.mark.parametrize("small", [0.0, 1e9])
def test_a_gradient_keeps_no_other_memory(small: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of weight and bias are computed in one tensor, which neither keeps alive."""
    monkeypatch.setattr(module, "_SMALL_SCORE", small)
    leaves = [torch.randn(shape).requires_grad_() for shape in ((5, 3), (7, 3), (7,))]
    loss = module.linear_cross_entropy(leaves[0], leaves[1], leaves[2], torch.randint(7, (5,)))
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.untyped_storage().nbytes() == gradient.numel() * gradient.element_size()


def test_a_second_backward_pass_is_refused() -> None:
    hidden = torch.ones(2, 3, requires_grad=True)
    loss = module.linear_cross_entropy(hidden, torch.ones(4, 3), torch.zeros(4), torch.tensor([0, 1]))
    torch.autograd.backward(loss, retain_graph=True)
    with pytest.raises(InputError, match="second time"):
        torch.autograd.backward(loss)


def test_without_gradients_the_loss_is_the_same() -> None:
    model, ids = small_model(), random_ids(B, T)
    with_gradients = stream_loss(model, ids, 0)
    with torch.no_grad():
        without = stream_loss(model, ids, 0)
    assert not without.requires_grad
    assert float(with_gradients.detach()) == float(without)


@pytest.mark.parametrize("width", [9, 61])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_CPU", width)
    model, ids = small_model(emb_dim=48), random_ids(B, T)
    expected = stream_loss(model, ids, 0)
    (expected_grad,) = torch.autograd.grad(expected, [model.transformer.embeddings.word.weight])
    with torch.autocast("cpu", dtype=dtype):
        found = stream_loss(model, ids, 0)
    (found_grad,) = torch.autograd.grad(found, [model.transformer.embeddings.word.weight])
    assert found.dtype == found_grad.dtype == torch.float32
    # bfloat16 keeps 8 bits, float16 11; two layers add a few roundings to each sum.
    bound = 8 * (2**-8 if dtype == torch.bfloat16 else 2**-11)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=bound)
    assert relative_error(found_grad, expected_grad) < bound


def test_scores_are_held_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor that the graph keeps is as large as the logits."""
    monkeypatch.setattr(module, "_SCORES_CPU", 2000 * 2)
    model, ids = small_model(vocab_size=2000), random_ids(B, T)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stream_loss(model, ids, 0)
    assert kept
    assert max(kept) < B * (T - 1) * 2000 / 10
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert model(ids, langs=0, labels=ids).loss is not None
    assert max(kept) >= B * (T - 1) * 2000  # what this test would see


def test_a_large_vocabulary_is_summed_well() -> None:
    """64,699 words in float32 against float64: no worse than logsumexp, far better than log_softmax (6e-5)."""
    hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(64699, 8, generator=torch.Generator().manual_seed(2))
    bias, targets = torch.zeros(64699), torch.tensor([5, 900, 64698, 0])
    found = module.linear_cross_entropy(hidden, weight, bias, targets)
    expected = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().t(), targets)
    assert float(found) == pytest.approx(float(expected), abs=3e-6)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_scores_of_any_size(size: float) -> None:
    """Scores that an exponential in float32 does not hold are shifted; the bound on them is one."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(6, 8, generator=generator) * size, torch.randn(50, 8, generator=generator)
    bias, targets = torch.randn(50, generator=generator), torch.randint(0, 50, (6,), generator=generator)
    assert float((hidden @ weight.t() + bias).abs().max()) <= module._largest_score(hidden, weight, bias)
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    found = module.linear_cross_entropy(leaves[0], leaves[1], leaves[2], targets)
    wide = [tensor.double().requires_grad_() for tensor in (hidden, weight, bias)]
    expected = torch.nn.functional.cross_entropy(wide[0] @ wide[1].t() + wide[2], targets)
    # A score of 1e5 is rounded by 4e-3 in float32, and its exponential by that share.
    tolerance = 1e-6 * max(1.0, size)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    gradients = torch.autograd.grad(found, leaves)
    for one, other in zip(gradients, torch.autograd.grad(expected, wide), strict=True):
        assert relative_error(one, other) < tolerance


def test_scores_that_are_no_numbers_give_a_loss_that_is_none() -> None:
    hidden, weight = torch.full((2, 4), float("nan")), torch.ones(5, 4)
    assert module.linear_cross_entropy(hidden, weight, torch.zeros(5), torch.tensor([0, 1])).isnan()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("small", [0.0, 40.0])
def test_an_ignored_row_changes_nothing_whatever_is_in_it(
    small: float, value: float, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of torch on the rows that count, and so are all gradients; the ignored row's own is 0."""
    monkeypatch.setattr(module, "_SMALL_SCORE", small)
    generator = torch.Generator().manual_seed(4)
    hidden, weight, bias = (torch.randn(*shape, generator=generator).double() for shape in ((4, 3), (7, 3), (7,)))
    hidden[1] = value
    targets, counted = torch.tensor([1, -100, 3, 2]), torch.tensor([0, 2, 3])
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    found = module.linear_cross_entropy(leaves[0], leaves[1], leaves[2], targets, smoothing=smoothing)
    others = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    logits = others[0][counted] @ others[1].t() + others[2]
    expected = torch.nn.functional.cross_entropy(logits, targets[counted], label_smoothing=smoothing)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, others), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
