"""``torch.compile``, ``torch.export``, ``torch.func`` and fake tensors, which have no values that could be checked.

Oracle: the same model in eager mode; for gradients, one backward pass for each row.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from xlm import XLMModel, XLMOutput, XLMWithLMHeadModel
from xlm.errors import InputError

pytestmark = [
    # In a compiled model this warning does not exist, so the model is called without langs too.
    pytest.mark.filterwarnings("ignore:this model has language embeddings"),
    # vmap computes the fused attention row by row.
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    # Torch's own, when a model with gradients is exported.
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar"),
]

BOUND = 2e-6  # float32 roundings of the same sums in another order
SHAPES = ((3, 7), (5, 12), (2, 3), (2, 2), (4, 16))
"""Shape of the example, then other shapes, up to the model's longest input."""
CASES = ("name labels lengths", "ids labels", "names left", "ids right labels", "positions", "lengths", "")
LOSS_ALONE = "ids labels lengths alone"
# Each case takes seconds.
SLOW_CASES = [pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:]]


def _inputs(case: str, rows: int = 3, tokens: int = 7) -> dict[str, Any]:
    """Return input ids and the named arguments of ``forward``; all rows but the last have padding."""
    ids = random_ids(rows, tokens, seed=rows)
    lengths = torch.tensor([*([max(2, tokens // 2)] * (rows - 1)), tokens])
    real_BT = torch.arange(tokens) < lengths[:, None]
    arguments: dict[str, tuple[str, Any]] = {
        "labels": ("labels", ids),
        "ids": ("langs", ids % 2),
        "name": ("langs", "en"),
        "names": ("langs", ["en", "de", "en", "de", "en"][:rows]),
        "lengths": ("lengths", lengths),
        "right": ("attention_mask", real_BT.long()),
        "left": ("attention_mask", real_BT.flip(1)),
        "alone": ("return_logits", False),
        "positions": ("position_ids", torch.arange(tokens).flip(0).repeat(rows, 1)),
    }
    return {"input_ids": ids, **dict(arguments[name] for name in case.split())}


def _check(found: Any, expected: XLMOutput) -> None:
    assert found.keys() == expected.keys()
    for ours, theirs in zip(found.to_tuple(), expected.to_tuple(), strict=True):
        assert relative_error(ours, theirs) < BOUND


@pytest.mark.parametrize("case", [CASES[0], LOSS_ALONE, *SLOW_CASES])
@torch.no_grad()
def test_compiled_it_is_one_graph_for_all_shapes(case: str) -> None:
    """The backend only traces."""
    model = small_model(seed=1)
    torch.compiler.reset()
    compiled: Any = torch.compile(small_model(seed=1), backend="eager", fullgraph=True, dynamic=True)
    for shape in SHAPES[:3]:
        inputs = _inputs(case, *shape)
        _check(compiled(**inputs), model(**inputs))


@pytest.mark.slow
def test_compiled_it_trains() -> None:
    """By the default backend, which builds machine code."""
    model: Any = small_model(seed=1)
    other = small_model(seed=1)
    torch.compiler.reset()
    compiled: Any = torch.compile(other, fullgraph=True)
    for shape in SHAPES[:2]:
        for case in (LOSS_ALONE, "ids labels lengths"):
            inputs = _inputs(case, *shape)
            _check(compiled(**inputs), model(**inputs))
            for each in (model, compiled):
                torch.autograd.backward(requested(each(**inputs).loss))
    for name, parameter in other.named_parameters():
        expected = model.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def exported(model: nn.Module, case: str) -> torch.export.ExportedProgram:
    """Export a model with any number of rows and tokens."""
    rows, tokens = torch.export.Dim("rows", max=64), torch.export.Dim("tokens", max=16)
    inputs = _inputs(case, *SHAPES[0])
    shapes = {
        name: None if not isinstance(value, Tensor) else {0: rows} if value.dim() == 1 else {0: rows, 1: tokens}
        for name, value in inputs.items()
    }
    return torch.export.export(model, (), inputs, dynamic_shapes=shapes)


@pytest.mark.parametrize("case", [CASES[0], LOSS_ALONE, *SLOW_CASES])
@torch.no_grad()
def test_exported_it_takes_other_shapes(case: str) -> None:
    model = small_model(seed=1)
    case = case.replace("names", "name")  # names would fix the number of rows
    program = exported(model, case)
    module = program.module()
    for shape in SHAPES:
        inputs = _inputs(case, *shape)
        _check(module(**inputs), model(**inputs))
    # Nothing is left of the checks of values.
    operations = {str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"}
    assert "embedding" in operations
    assert not operations & {"aminmax", "all", "any", "item", "_local_scalar_dense", "nonzero", "_assert_async"}


@torch.no_grad()
def test_the_headless_model_is_exported_with_its_output() -> None:
    body = XLMModel(small_config()).eval()
    inputs = _inputs("ids lengths", 4, 9)
    found = exported(body, "ids lengths").module()(**inputs)
    assert type(found) is type(body(**inputs))
    assert relative_error(found.last_hidden_state, body(**inputs).last_hidden_state) < BOUND


@pytest.mark.parametrize(
    "case", ["name labels", "ids labels lengths", "name right labels", "name left labels", "name right labels alone"]
)
def test_gradients_of_each_row_by_vmap(case: str) -> None:
    model: Any = small_model(seed=1)
    inputs = _inputs(case)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    rows = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in inputs.items() if name not in rows}

    def loss(weights: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        batch = {name: value[None] for name, value in row.items()}
        result: Tensor = functional_call(model, weights, (), {**batch, **rest}).loss
        return result

    found = vmap(grad(loss), in_dims=(None, 0))(weights, rows)
    for i in range(len(inputs["input_ids"])):
        model.zero_grad()
        row = {name: value[i : i + 1] for name, value in rows.items()}
        torch.autograd.backward(requested(model(**row, **rest).loss))
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-4, atol=1e-6)


def test_vmap_over_masks_alone() -> None:
    """The ids have values here, but the masks do not."""
    model, ids = small_model(seed=1), random_ids(1, 5)
    masks = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    found = vmap(lambda mask: model(ids, langs="en", attention_mask=mask[None]).logits[0, -1])(masks)
    expected = model(ids.expand(3, 5), langs="en", attention_mask=masks).logits[:, -1]
    assert relative_error(found, expected) < BOUND


@pytest.mark.parametrize("case", [*CASES, LOSS_ALONE])
def test_fake_tensors_give_shapes(case: str) -> None:
    with FakeTensorMode() as mode:
        model: Any = XLMWithLMHeadModel(small_config())
        inputs = {name: mode.from_tensor(v) if isinstance(v, Tensor) else v for name, v in _inputs(case).items()}
        output = model(**inputs)
        assert "alone" in case or output.logits.shape == (3, 7, 61)
        if "labels" in case:
            torch.autograd.backward(requested(output.loss))
            assert requested(model.transformer.embeddings.word.weight.grad).shape == (61, 24)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_the_old_tracer_is_refused() -> None:
    """It would record that the example has no padding, and compute other rows as if they had none either."""
    model, ids = small_model(seed=1), random_ids(2, 5)
    with pytest.raises(InputError, match=r"torch\.export\.export") as caught:
        torch.jit.trace(model, (ids,))  # type: ignore[no-untyped-call]
    assert "dynamo=True" in str(caught.value)


def test_a_parameter_as_input_is_checked() -> None:
    ids = nn.Parameter(torch.full((1, 3), 99), requires_grad=False)
    with pytest.raises(InputError, match="out of range"):
        small_model()(ids, langs="en")
