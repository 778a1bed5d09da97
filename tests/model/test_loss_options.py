"""Loss without the logits, reductions, label smoothing, and batches without labels that count.

Oracle: ``torch.nn.functional.cross_entropy`` on the model's logits, with labels shifted by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import xlm.model.head as head_module
import xlm.model.linear_cross_entropy as fused_module
from tests.model.small_models import random_ids, relative_error, small_config, small_model
from xlm import XLMEncoderDecoderModel, XLMWithLMHeadModel, linear_cross_entropy
from xlm.errors import ConfigError, InputError
from xlm.model.head import LinearHead
from xlm.model.loss import Reduction

B, T, V = 3, 6, 61
LENGTHS = torch.tensor([6, 2, 4])
HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}
each_head = pytest.mark.parametrize("head", HEADS)


def labels_of(ids: Tensor) -> Tensor:
    labels = ids.clone()
    labels[0, 2] = labels[1, 4:] = labels[2, 0] = -100
    return labels


def by_torch(model: XLMWithLMHeadModel, logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the loss of labels at real positions, which the caller has masked elsewhere."""
    if model.config.causal:
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)


@each_head
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("causal", [True, False])
def test_torch_s_loss_and_gradients(
    causal: bool, reduction: Any, smoothing: float, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_module, "_SCORES_CPU", V * 4)  # a few positions in a chunk
    monkeypatch.setattr(head_module, "_WIDE_BLOCK_ELEMENTS", V * 4)
    dtype, tolerance = torch.float64, 1e-11
    ids = random_ids(B, T)
    labels = labels_of(ids)
    results = []
    for way in ("torch", "logits", "chunks", "unchecked chunks"):
        model = small_model(dtype=dtype, causal=causal, **HEADS[head])
        model.check_inputs = way != "unchecked chunks"
        inputs: dict[str, Any] = {"langs": "en", "lengths": LENGTHS}
        if way == "torch":
            real = torch.arange(T) < LENGTHS[:, None]
            masked = labels.masked_fill(~real, -100)
            logits = model(ids, **inputs).logits
            loss = by_torch(model, logits, masked, reduction=reduction, label_smoothing=smoothing)
            loss = loss.view(B, T) if reduction == "none" else loss
        else:
            output = model(
                ids,
                **inputs,
                labels=labels,
                reduction=reduction,
                smoothing=smoothing,
                return_logits=way == "logits",
            )
            assert ("logits" in output) == (way == "logits")
            assert output.loss is not None
            loss = output.loss
        weights = torch.linspace(1, 2, loss.numel(), dtype=dtype).view(loss.shape)
        torch.autograd.backward((loss * weights).sum())
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for found in results[1:]:
        largest = max(float(gradient.abs().max()) for gradient in results[0][1:])
        torch.testing.assert_close(found[0], results[0][0], rtol=tolerance, atol=tolerance)
        for gradient, expected in zip(found[1:], results[0][1:], strict=True):
            assert float((gradient - expected).abs().max()) < 10 * tolerance * largest


@each_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_without_logits(dtype: torch.dtype, head: str) -> None:
    ids, model = random_ids(B, T), small_model(dtype=dtype, **HEADS[head])
    expected, found = (model(ids, langs="en", labels=ids, return_logits=given).loss for given in (True, False))
    assert expected is not None
    assert found is not None
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


class Doubled(XLMWithLMHeadModel):
    def logits(self, hidden: Tensor) -> Tensor:
        return 2 * super().logits(hidden)


class DoubledHead(LinearHead):
    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * super().forward(hidden)


def _hooked(model: XLMWithLMHeadModel) -> None:
    model.head.register_forward_hook(lambda module, inputs, output: 2 * output)


def _replaced(model: XLMWithLMHeadModel) -> None:
    head = DoubledHead(model.config)
    head.load_state_dict(model.head.state_dict())
    model.head = head


def _linear(model: XLMWithLMHeadModel) -> None:
    """Replace the head by a plain layer, with the weight and bias doubled."""
    assert isinstance(model.head, LinearHead)
    layer = nn.Linear(24, V)
    layer.weight, layer.bias = nn.Parameter(2 * model.head.projection), nn.Parameter(2 * model.head.bias)
    setattr(model, "head", layer)  # noqa: B010 (not a LinearHead, for type checkers)


CHANGES: dict[str, Callable[[XLMWithLMHeadModel], None]] = {"hook": _hooked, "subclass": _replaced, "linear": _linear}


@pytest.mark.parametrize("change", [*CHANGES, "logits"])
@torch.no_grad()
def test_a_changed_head_is_respected(change: str) -> None:
    """Each of them doubles the logits; the loss without logits must see this."""
    ids = random_ids(B, T)
    plain = small_model()
    model = small_model()
    if change == "logits":
        model = Doubled(plain.config).eval()
        model.load_state_dict(plain.state_dict())
    else:
        CHANGES[change](model)
    expected = by_torch(plain, 2 * plain(ids, langs="en").logits, ids)
    for return_logits in (True, False):
        loss = model(ids, langs="en", labels=ids, return_logits=return_logits).loss
        torch.testing.assert_close(loss, expected)


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_module, "_SCORES_CPU", 4000)
    monkeypatch.setattr(head_module, "_WIDE_BLOCK_ELEMENTS", 4000)
    model, ids = small_model(vocab_size=2000), random_ids(B, T)
    largest = [0]

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            # Other than the weight, and its transposed gradient with that of the bias.
            if isinstance(result, Tensor) and not {24, 25} & {*result.shape}:
                largest[0] = max(largest[0], result.numel())
            return result

    for options in ({}, {"smoothing": 0.1}, {"reduction": "none"}):
        for return_logits in (False, True):
            largest[0] = 0
            with Watch():
                loss = model(ids, langs="en", labels=ids, return_logits=return_logits, **options).loss
                assert loss is not None
                torch.autograd.backward(loss.sum())
            assert (largest[0] >= B * (T - 1) * 2000) == return_logits, (options, largest)


@each_head
@pytest.mark.parametrize("return_logits", [True, False])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_labels_that_count(smoothing: float, checked: bool, return_logits: bool, head: str) -> None:
    model, ids = small_model(**HEADS[head]), random_ids(B, T)
    nothing = torch.full_like(ids, -100)
    with pytest.raises(InputError, match="nvalid labels") as caught:
        model(ids, langs="en", labels=nothing, return_logits=return_logits)
    assert "allow_empty=True" in str(caught.value.remedy)
    model.check_inputs = checked
    reductions: tuple[Reduction, ...] = ("mean", "sum")
    for reduction in reductions:
        loss = model(
            ids,
            langs="en",
            labels=nothing,
            allow_empty=True,
            return_logits=return_logits,
            reduction=reduction,
            smoothing=smoothing,
        ).loss
        assert loss is not None
        assert float(loss.detach()) == 0
        torch.autograd.backward(loss)
    gradients = [parameter.grad for parameter in model.transformer.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("return_logits", [True, False])
def test_labels_out_of_range(return_logits: bool) -> None:
    labels = torch.full((1, T), -100)
    labels[0, 1] = V
    for allow in (True, False):
        with pytest.raises(InputError, match="1 labels that are not ignored, 1 of them out of range"):
            small_model()(random_ids(1, T), langs="en", labels=labels, allow_empty=allow, return_logits=return_logits)


def test_hidden_states_without_logits() -> None:
    output = small_model()(random_ids(B, T), langs="en", return_logits=False, output_hidden_states=True)
    assert output.keys() == ("hidden_states",)


@torch.no_grad()
def test_translation_has_the_same_options() -> None:
    model, ids = XLMEncoderDecoderModel(small_config()).eval(), random_ids(B, T)
    inputs: dict[str, Any] = {"langs": "en", "decoder_langs": "de", "labels": ids}
    whole = model(ids, ids, **inputs, reduction="none", smoothing=0.1)
    expected = by_torch(model.decoder, whole.logits, ids, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(whole.loss, expected.view(B, T))
    chunked = model(ids, ids, **inputs, reduction="sum", smoothing=0.1, return_logits=False)
    assert "logits" not in chunked
    torch.testing.assert_close(chunked.loss, expected.sum())


@pytest.mark.parametrize(
    "options",
    [{"reduction": "batchmean"}, {"smoothing": 1.5}, {"smoothing": -0.1}, {"return_logits": "no"}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises((InputError, ConfigError)) as caught:
        small_model()(random_ids(B, T), langs="en", labels=random_ids(B, T), **options)
    assert next(iter(options)) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_public_function(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 8, generator=generator), torch.randn(50, 8, generator=generator)
    bias, targets = torch.randn(50, generator=generator), torch.randint(0, 50, (9,), generator=generator)
    targets[[1, 5]] = -100
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    bound = 1e-6 if dtype == torch.float32 else 2e-2
    for reduction in ("mean", "sum"):
        found = linear_cross_entropy(*leaves, targets, reduction=reduction, smoothing=0.2)  # type: ignore[arg-type, misc]
        expected = F.cross_entropy(wide[0] @ wide[1].t() + wide[2], targets, reduction=reduction, label_smoothing=0.2)
        assert found.dtype == torch.float32
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=bound)
        for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, wide), strict=True):
            assert relative_error(one, other) < bound
    assert linear_cross_entropy(hidden, weight, bias, torch.full((9,), -100), reduction="sum") == 0
    assert linear_cross_entropy(hidden[:0], weight, bias, targets[:0], reduction="sum") == 0


def test_only_the_labels_are_labels_to_the_trainer_of_transformers() -> None:
    """The ``Trainer`` computes no loss of an evaluation whose batches lack a parameter with "label" in its name."""
    for kind in (XLMWithLMHeadModel, XLMEncoderDecoderModel):
        assert [name for name in inspect.signature(kind.forward).parameters if "label" in name] == ["labels"]
