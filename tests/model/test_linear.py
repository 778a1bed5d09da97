"""The function for float32 matrix products.

Oracle: ``torch.nn.functional.linear`` in float64, and for what must be left to torch, ``F.linear`` on the same tensors.

Where torch lacks oneDNN, or on a processor of another maker, torch's own product takes oneDNN's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import xlm.model.linear as module
from tests.model.operations import Operations
from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.model.linear import apply_linear, linear

N, K, M = 6, 24, 40


class Spy:
    """Stands for oneDNN's operator, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.operator = module._ONEDNN or (lambda x, weight, bias, *_: F.linear(x, weight, bias))

    def __call__(self, *arguments: Any) -> Tensor:
        self.calls += 1
        out: Tensor = self.operator(*arguments)
        return out


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Let oneDNN compute products of any size."""
    spy = Spy()
    monkeypatch.setattr(module, "_ONEDNN", spy)
    monkeypatch.setattr(module, "_FEW_MULTIPLICATIONS", 1)
    return spy


def _tensors(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(*(shape or (N,)), K, generator=generator),
        torch.randn(M, K, generator=generator),
        torch.randn(M, generator=generator),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (N,), (2, 3), (1, 1, 5), (200,)])
@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "all", "none"])
def test_products_and_gradients(spy: Spy, shape: tuple[int, ...], bias: bool, wanted: str) -> None:
    x, weight, bias_M = _tensors(*shape)
    named = {"x": x, "weight": weight, **({"bias": bias_M} if bias else {})}
    for name, tensor in named.items():
        tensor.requires_grad_(wanted in (name, "all"))
    exact = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in named.items()}
    found, expected = linear(*named.values()), F.linear(*exact.values())
    assert spy.calls == 1
    assert found.dtype == torch.float32
    assert found.requires_grad == expected.requires_grad
    assert relative_error(found.detach(), expected.detach()) < 1e-6
    if not expected.requires_grad:
        return
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    found.backward(grad)  # type: ignore[no-untyped-call]
    expected.backward(grad.double())  # type: ignore[no-untyped-call]
    for name, tensor in named.items():
        of_exact = exact[name].grad
        assert (tensor.grad is None) == (of_exact is None), name
        if tensor.grad is not None and of_exact is not None:
            assert tensor.grad.shape == tensor.shape
            assert relative_error(tensor.grad, of_exact) < 1e-6, name


STRIDES: dict[str, Callable[[Tensor], Tensor]] = {
    "every second column": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.t().contiguous().t(),
    "one row, expanded": lambda x: x[:1].expand_as(x),
    "one column, expanded": lambda x: x[:, :1].expand_as(x),
    "backwards": lambda x: x.flip(0),
    "from an offset": lambda x: torch.cat([x, x]).view(2, *x.shape)[1],
    "negated by a flag": lambda x: torch._neg_view(x),
}


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("which", ["x", "weight", "gradient"])
def test_memory_in_any_order(spy: Spy, name: str, which: str) -> None:
    x, weight, bias = _tensors()
    grad = torch.randn(N, M, generator=torch.Generator().manual_seed(1))
    x = STRIDES[name](x) if which == "x" else x
    weight = STRIDES[name](weight) if which == "weight" else weight
    grad = STRIDES[name](grad) if which == "gradient" else grad
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    found, expected = linear(*leaves), F.linear(*exact)
    assert relative_error(found.detach(), expected.detach()) < 1e-6
    for one, other in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert relative_error(one, other) < 1e-6
    with torch.inference_mode():
        assert torch.equal(linear(x, weight, bias), found)


def test_gradients_of_gradients(spy: Spy) -> None:
    def second(product: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(product(*tensors).tanh().sum(), tensors[:2], create_graph=True)
        return torch.autograd.grad((first[0] ** 2).sum() + (first[1] ** 3).sum(), tensors)

    tensors = [tensor.requires_grad_() for tensor in _tensors()]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    found = second(linear, *tensors)
    assert spy.calls > 3
    for one, other in zip(found, second(F.linear, *exact), strict=True):
        assert relative_error(one, other) < 1e-5


def test_batches_of_gradients(spy: Spy) -> None:
    tensors = [tensor.requires_grad_() for tensor in _tensors()]
    out = linear(*tensors)
    grads = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(out, tensors, grads, is_grads_batched=True, retain_graph=True)
    for index, grad in enumerate(grads):
        for one, other in zip(found, torch.autograd.grad(out, tensors, grad, retain_graph=True), strict=True):
            assert relative_error(one[index], other) < 1e-6


def test_what_needs_no_gradient_is_not_kept() -> None:
    """A frozen layer does not keep its input, and a layer whose input needs no gradient does not keep its weight."""
    x, weight, bias = _tensors(2, 3)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module._OneDNNLinear.apply(x.requires_grad_(), weight, bias)  # type: ignore[no-untyped-call]
        assert [tensor.shape for tensor in kept] == [weight.shape]
        kept.clear()
        module._OneDNNLinear.apply(x.detach(), weight, bias.requires_grad_())  # type: ignore[no-untyped-call]
        assert kept == []


def test_a_weight_changed_before_the_backward_pass_is_an_error(spy: Spy) -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in _tensors())
    out = linear(x, weight, bias)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "types", [(torch.float64,) * 3, (torch.bfloat16,) * 3, (torch.float16,) * 3, (torch.float32,) * 3], ids=str
)
def test_other_types_and_empty_tensors_are_left_to_torch(spy: Spy, types: tuple[torch.dtype, ...]) -> None:
    x, weight, bias = (tensor.to(dtype) for tensor, dtype in zip(_tensors(), types, strict=True))
    if types[0] == torch.float32:
        x = x[:0]
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert spy.calls == 0


@pytest.mark.parametrize(
    "shapes",
    [((N, K + 1), (M, K), (M,)), ((N, K), (M, K), (M + 1,)), ((), (M, K), (M,)), ((N, K), (2, M, K), (M,))],
    ids=["width", "bias", "no dimension", "three dimensions"],
)
def test_wrong_shapes_are_torch_s_errors(spy: Spy, shapes: tuple[tuple[int, ...], ...]) -> None:
    tensors = [torch.ones(shape) for shape in shapes]
    with pytest.raises(RuntimeError) as expected:
        F.linear(*tensors)
    with pytest.raises(RuntimeError) as found:
        linear(*tensors)
    assert str(found.value) == str(expected.value)


def test_mixed_types_are_torch_s_errors(spy: Spy) -> None:
    x, weight, bias = _tensors()
    with pytest.raises(RuntimeError):
        linear(x.double(), weight, bias)
    with pytest.raises(RuntimeError):
        linear(x, weight.bfloat16(), bias)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(spy: Spy, bad: float) -> None:
    x, weight, bias = _tensors()
    x[2, 3] = bad
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), equal_nan=True)


def test_few_multiplications_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    monkeypatch.setattr(module, "_ONEDNN", spy)
    linear(torch.ones(1, 64), torch.ones(64, 64))
    assert spy.calls == 0
    linear(torch.ones(512, 64), torch.ones(64, 64))
    assert spy.calls == 1


def _traced(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        out: Tensor = torch.jit.trace(linear, (x, weight, bias), check_trace=False)(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _compiled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = torch.compile(linear, fullgraph=True, backend="eager", dynamic=True)(x, weight, bias)
    return out


def _exported(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    layer = _Layer(weight, bias)
    rows = torch.export.Dim("rows", min=2, max=1000)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: rows},))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"aten.linear.default"}
    out: Tensor = program.module()(x)
    return out


class _Layer(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(K, M)
        self.layer.weight, self.layer.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(self.layer, x)


def _dual(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))  # type: ignore[no-untyped-call]
        out = linear(dual, weight, bias)
        primal, tangent = forward_ad.unpack_dual(out)  # type: ignore[no-untyped-call]
        assert torch.equal(tangent, F.linear(torch.ones_like(x), weight))
        return primal.clone()  # type: ignore[no-any-return]


def _jvp(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    pair: tuple[Tensor, Tensor] = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (torch.ones_like(x),))  # type: ignore[assignment]
    assert torch.equal(pair[1], F.linear(torch.ones_like(x), weight))
    return pair[0]


def _grad_of_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    grads = torch.func.vmap(torch.func.grad(lambda row: linear(row, weight, bias).sum()))(x)
    assert torch.allclose(grads, weight.sum(0).expand_as(x), atol=1e-5)
    return F.linear(x, weight, bias)


def _observed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with Operations() as operations:
        out = linear(x, weight, bias)
    assert operations.made[-1][0] == "aten.addmm.default"
    return out


class _Functions(torch.overrides.TorchFunctionMode):
    seen: list[Any]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def _functions(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mode = _Functions()
    mode.seen = []
    with mode:
        out = linear(x, weight, bias)
    assert F.linear in mode.seen
    return out


class _Subclass(Tensor):
    pass


RECORDED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "compile": _compiled,
    "export": _exported,
    "jit.trace": _traced,
    "vmap": lambda x, w, b: torch.func.vmap(lambda row: linear(row, w, b))(x),
    "vmap and grad": _grad_of_rows,
    "jvp": _jvp,
    "forward AD": _dual,
    "make_fx": lambda x, w, b: torch.fx.experimental.proxy_tensor.make_fx(linear)(x, w, b)(x, w, b),
    "a dispatch mode": _observed,
    "a function mode": _functions,
    "a subclass": lambda x, w, b: linear(x, w.as_subclass(_Subclass), b).as_subclass(Tensor),
    "functional_call": lambda x, w, b: _called_by_row(x, w, b),
    "mkldnn off": lambda x, w, b: _without_mkldnn(x, w, b),
}


def _called_by_row(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    layer = _Layer(weight, bias)
    out: Tensor = torch.func.vmap(
        lambda row: torch.func.functional_call(layer, {"layer.weight": weight, "layer.bias": bias}, (row,))
    )(x)
    return out


def _without_mkldnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]
    try:
        return linear(x, weight, bias)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=True)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", RECORDED)
def test_what_torch_records_is_the_plain_operation(spy: Spy, name: str) -> None:
    x, weight, bias = _tensors()
    found = RECORDED[name](x, weight, bias)
    assert spy.calls == 0
    assert relative_error(found.detach(), F.linear(x, weight, bias)) < 1e-6
    linear(x, weight, bias)
    assert spy.calls == 1  # the state of torch is as before


def test_autocast(spy: Spy) -> None:
    x, weight, bias = _tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear(x, weight, bias)
        assert torch.equal(found, F.linear(x, weight, bias))
    assert found.dtype == torch.bfloat16
    assert spy.calls == 0


def test_checkpointing(spy: Spy) -> None:
    """The forward pass is repeated in the backward pass."""
    x, weight, bias = (tensor.requires_grad_() for tensor in _tensors())
    plain = torch.autograd.grad(linear(x, weight, bias).tanh().sum(), (x, weight, bias))
    out = torch.utils.checkpoint.checkpoint(lambda x: linear(x, weight, bias).tanh().sum(), x, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(out, (x, weight, bias)), plain, strict=True):
        assert torch.equal(one, other)


class _Double(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def _with_own_forward(layer: nn.Linear) -> Iterator[None]:
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias) * 2  # type: ignore[method-assign, assignment]
    yield


def _with_forward_hook(layer: nn.Linear) -> Iterator[None]:
    layer.register_forward_hook(lambda module, inputs, out: out * 2)
    yield


def _with_pre_hook(layer: nn.Linear) -> Iterator[None]:
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    yield


def _with_global_hook(layer: nn.Linear) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, out: out * 2)
    yield
    handle.remove()


def _with_parametrization(layer: nn.Linear) -> Iterator[None]:
    parametrizations.weight_norm(layer)
    yield


@pytest.mark.parametrize(
    "change", [_with_own_forward, _with_forward_hook, _with_pre_hook, _with_global_hook, _with_parametrization]
)
def test_changed_modules_are_called(spy: Spy, change: Callable[[nn.Linear], Iterator[None]]) -> None:
    x, weight, bias = _tensors()
    layer = _Layer(weight, bias).layer
    assert relative_error(apply_linear(layer, x).detach(), F.linear(x, weight, bias)) < 1e-6
    assert spy.calls == 1
    changed = change(layer)
    next(changed)
    assert torch.equal(apply_linear(layer, x), layer(x))
    assert spy.calls == 1
    for _ in changed:
        pass


def test_other_modules_are_called(spy: Spy) -> None:
    layer, x = _Double(K, M), _tensors()[0]
    assert torch.equal(apply_linear(layer, x), layer(x))
    assert torch.equal(apply_linear(nn.Identity(), x), x)
    assert spy.calls == 0


def test_backward_hooks_see_the_gradients(spy: Spy) -> None:
    layer, x = nn.Linear(K, M), _tensors()[0].requires_grad_()
    seen: list[Tensor] = []
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.extend((*inputs, *outputs)))
    apply_linear(layer, x).sum().backward()  # type: ignore[no-untyped-call]
    assert [tuple(tensor.shape) for tensor in seen] == [(N, K), (N, M)]


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_computes_and_learns_the_same(spy: Spy, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(3, 7)
    exact, model = (small_model(dtype=dtype, share_inout_emb=tied) for dtype in (torch.float64, torch.float32))
    expected, found = (each(ids, langs="en", labels=ids) for each in (exact, model))
    L = model.config.n_layers
    assert spy.calls == 6 * L + 1
    assert relative_error(found.logits.detach(), expected.logits.detach()) < 2e-6
    torch.autograd.backward(requested(found.loss))
    torch.autograd.backward(requested(expected.loss))
    assert spy.calls == 3 * (6 * L + 1)
    gradients = {name: parameter.grad for name, parameter in exact.named_parameters()}
    for name, parameter in model.named_parameters():
        other = gradients[name]
        assert (parameter.grad is None) == (other is None)
        if parameter.grad is not None and other is not None and not name.endswith("key.bias"):  # zero but for rounding
            assert relative_error(parameter.grad, other) < 2e-5, name


@pytest.mark.parametrize("missing", ["operator", "processor", "mkl", "private"])
def test_onednn_is_not_used_where_it_is_missing_or_not_faster(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_made_by_amd", lambda: missing != "processor")
    if missing == "operator":
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    if missing == "mkl":
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    if missing == "private":
        monkeypatch.delattr(torch._C, "_are_functorch_transforms_active")
    assert module._find_onednn() is None


@pytest.mark.parametrize(
    ("cpuinfo", "identifier", "expected"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n", "", True),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", "", False),
        (None, "AMD64 Family 25 Model 33 Stepping 0, AuthenticAMD", True),
        (None, "Intel64 Family 6 Model 142 Stepping 12, GenuineIntel", False),
    ],
)
def test_the_maker_of_the_processor(
    cpuinfo: str | None, identifier: str, expected: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo, encoding="utf-8")
    monkeypatch.setattr(module, "Path", lambda _: file)
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", identifier)
    assert module._made_by_amd() == expected
