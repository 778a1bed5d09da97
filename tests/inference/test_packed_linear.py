"""Linear layers with packed weights.

Oracle: ``nn.Linear`` with the same weights, rounded or not. Packed kernels compute in float32, so only the order
of sums differs. The error of int8 is bounded by its steps.
"""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.operations import Operations
from tests.model.small_models import relative_error
from xlm.errors import InputError
from xlm.inference import packed_linear
from xlm.inference.packed_linear import (
    FEW_ROWS,
    ROUNDINGS,
    Bfloat16Linear,
    Float16Linear,
    Float32Linear,
    Int8Linear,
    PackedLinear,
    VnniInt8Linear,
)

needs_onednn = pytest.mark.skipif(not packed_linear._has_onednn(), reason="this torch has no oneDNN kernels for x86")
needs_fbgemm = pytest.mark.skipif(not packed_linear._has_fbgemm(), reason="this torch has no FBGEMM kernels")

needs_vnni = pytest.mark.skipif(
    not packed_linear._has_onednn_int8(), reason="this torch or processor cannot multiply int8 by oneDNN"
)
int8_layers = pytest.mark.parametrize("layer", [Int8Linear, pytest.param(VnniInt8Linear, marks=needs_vnni)])


@needs_fbgemm
@int8_layers
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("size", [(1, 1), (61, 24), (17, 300)])
def test_int8_is_within_its_steps(rows: int, size: tuple[int, int], layer: type[PackedLinear]) -> None:
    """Each weight changes by at most half a step of its output, each input by at most half a step of its row."""
    generator = torch.Generator().manual_seed(rows)
    weight_MK, bias_M = torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)
    scales_N1 = 10.0 ** torch.arange(rows)[:, None].remainder(5)  # rows beside which others would vanish
    x_NK = torch.randn(rows, size[1], generator=generator) * scales_N1
    steps_M = weight_MK.abs().amax(1) / 127
    steps_N1 = (x_NK.amax(1).clamp_min(0) - x_NK.amin(1).clamp_max(0))[:, None] / 127
    bound_NM = x_NK.abs().sum(1)[:, None] * steps_M / 2 + weight_MK.abs().sum(1) * steps_N1 / 2
    bound_NM = bound_NM + size[1] * steps_M * steps_N1 / 4 + 1e-5 * scales_N1
    found_NM = layer(weight_MK, bias_M)(x_NK)
    assert ((found_NM - nn.functional.linear(x_NK, weight_MK, bias_M)).abs() <= bound_NM).all()


@needs_fbgemm
@int8_layers
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    rows=st.integers(2, 20),
    exponents=st.tuples(st.integers(-6, 9), st.integers(-6, 9)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_row_of_int8_is_the_same_beside_any_others(
    layer: type[PackedLinear], size: tuple[int, int], rows: int, exponents: tuple[int, int], seed: int
) -> None:
    """Some rows are constant, have far larger or smaller numbers than others, or only one sign.

    Beside other rows, results are equal to the bit. Alone, a row is rounded by the kernel, where the last digit can
    move an input to the next level, so the result may differ by one step of one input. The scale of a large row would
    change the result of a small row far more.
    """
    generator = torch.Generator().manual_seed(seed)
    weight_MK, bias_M = torch.randn(size, generator=generator), torch.randn(size[0], generator=generator)
    packed = layer(weight_MK, bias_M)
    x_NK = torch.randn(rows, size[1], generator=generator) * 10.0 ** exponents[0]
    x_NK[::2] += 10.0 ** exponents[1]
    x_NK[0] = x_NK[0, 0]
    found_NM = packed(x_NK)
    order = torch.randperm(rows, generator=generator)
    assert torch.equal(packed(x_NK[order].view(1, rows, -1))[0], found_NM[order])
    assert torch.equal(packed(x_NK[:2]), found_NM[:2])
    alone_NM = torch.cat([packed(x_1K) for x_1K in x_NK[:, None]])
    steps_N1 = (x_NK.amax(1).clamp_min(0) - x_NK.amin(1).clamp_max(0))[:, None] / 127
    steps_N1 = steps_N1.clamp_min(packed_linear._FINEST_STEP)
    last_digits_NM = 1e-5 * (steps_N1 * 127 * weight_MK.abs().sum(1) + bias_M.abs())
    assert ((found_NM - alone_NM).abs() <= steps_N1 * weight_MK.abs().amax(1) + last_digits_NM).all()


@needs_fbgemm
@torch.no_grad()
def test_bfloat16_takes_few_and_many_rows() -> None:
    """The kernel for many rows also rounds input and output: three roundings of at most half of 2**-8 each.

    Rounding a bias a thousand times as large would give a larger error.
    """
    linear = nn.Linear(24, 61)
    linear.bias.data += 1000
    packed = Bfloat16Linear(linear.weight.detach(), linear.bias.detach())
    for rows in (1, FEW_ROWS, FEW_ROWS + 1, 50):
        x = torch.randn(rows, 24, generator=torch.Generator().manual_seed(rows))
        # Near 1000, float32 has steps of 2**-14.
        assert relative_error(packed(x) - linear.bias, linear(x) - linear.bias) < 3 * 2**-8


@pytest.mark.parametrize("onednn", [pytest.param(True, marks=needs_onednn), False], ids=["oneDNN", "without"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129])
@pytest.mark.parametrize("width", [5, 4096, 4097, 9000])
@torch.no_grad()
def test_products_of_float32_are_exact(
    rows: int, width: int, threads: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "_has_onednn", lambda: onednn)
    linear, x = nn.Linear(16, width), torch.randn(rows, 2 * 16)[:, ::2]
    packed = Float32Linear(linear.weight, linear.bias)
    assert packed.by_onednn == onednn
    assert torch.equal(packed.plain_weight(), linear.weight)
    torch.set_num_threads(threads)  # conftest.py sets it back
    # The order of the sixteen products changes the last digits of a float32 sum.
    torch.testing.assert_close(packed(x), linear(x), rtol=0, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("rows", [1, 128])
@torch.no_grad()
def test_float32_weights_are_held_once(rows: int) -> None:
    packed = Float32Linear(torch.ones(3, 4), torch.zeros(3))
    assert [tensor.shape for tensor in vars(packed).values() if isinstance(tensor, Tensor)] == [(3,), (3, 4)]
    with Operations() as operations:
        packed(torch.ones(rows, 4))
    assert "mkldnn._linear_pointwise.default" in [name for name, *_ in operations.made]


@pytest.mark.parametrize("onednn", [pytest.param(True, marks=needs_onednn), False], ids=["oneDNN", "without"])
def test_float32_layers_can_be_pickled(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to a machine that has oneDNN when this one does not, or the other way round."""
    linear, x = nn.Linear(16, 61).requires_grad_(False), torch.randn(3, 16)
    data = pickle.dumps(Float32Linear(linear.weight, linear.bias))
    monkeypatch.setattr(packed_linear, "_has_onednn", lambda: onednn)
    there = pickle.loads(data)
    assert there.by_onednn == onednn
    torch.testing.assert_close(there(x), linear(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(there)(x), linear(x), rtol=0, atol=1e-5)


def test_private_operations_that_are_gone_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_linear_pointwise=None))
    assert not Float32Linear(torch.ones(3, 4), torch.zeros(3)).by_onednn


@needs_fbgemm
@pytest.mark.parametrize("rows", [1, 2, 65])
@pytest.mark.parametrize("width", [8192, 8193, 20_000])
@torch.no_grad()
def test_wide_products_of_float16_are_whole(rows: int, width: int) -> None:
    linear = nn.Linear(16, width)
    linear.weight.copy_(linear.weight.half())  # which leaves nothing to round
    packed = Float16Linear(linear.weight, linear.bias)
    found = packed(x := torch.randn(rows, 16))
    torch.testing.assert_close(found, linear(x), rtol=0, atol=1e-5)
    firsts, pieces = zip(*packed.pieces(x), strict=True)
    assert firsts == tuple(range(0, width, 8192))
    assert torch.equal(torch.cat(pieces, 1), found)


@needs_fbgemm
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
@pytest.mark.parametrize("largest", [1e6, 1e-6, 1e-9], ids=["too large", "too small", "nothing left"])
@torch.no_grad()
def test_weights_beyond_float16_are_kept(weights: str, largest: float) -> None:
    linear = nn.Linear(8, 8)
    linear.weight[3] *= largest / linear.weight[3].abs().amax()
    packed = packed_linear.packed_linear(weights, linear.weight, linear.bias)
    assert isinstance(packed, Float32Linear)
    kept = linear.weight.bfloat16().float() if weights == "bfloat16" else linear.weight
    torch.testing.assert_close(packed.plain_weight(), kept, rtol=0, atol=0)
    torch.testing.assert_close(packed(torch.eye(8)), (kept + linear.bias[:, None]).T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", ROUNDINGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_stay_so(weights: str, bad: float) -> None:
    weight_MK = torch.ones(3, 4)
    weight_MK[1, 2] = bad
    found = packed_linear.packed_linear(weights, weight_MK, torch.zeros(3))(torch.ones(1, 4))[0]
    assert not bool(found[1].isfinite())
    assert found[[0, 2]].tolist() == [4, 4]


@needs_fbgemm
@int8_layers
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_int8_refuses_what_is_not_finite(bad: float, layer: type[PackedLinear]) -> None:
    packed = layer(torch.ones(3, 4), torch.zeros(3))
    for x in (torch.full((2, 4), bad), torch.tensor([[1.0, bad, 1.0, 1.0]])):
        with pytest.raises(InputError, match="not finite"):
            packed(x)


@needs_fbgemm
@needs_vnni
@pytest.mark.filterwarnings("ignore:TypedStorage")  # torch pickles packed weights so
@pytest.mark.parametrize("width", [16, 60, 61, 8192])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (3, 1), (1, 9)], ids=str)
def test_int8_rounds_to_the_nearest_level(shape: tuple[int, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one, of weights and inputs, leave only the rounding of the inputs."""
    monkeypatch.setattr(packed_linear, "_PACKED_WIDTH", width)
    generator = torch.Generator().manual_seed(0)
    weight_MK = torch.randint(-126, 127, (61, 24), generator=generator).float()
    weight_MK[:, 0] = 127
    bias_M = torch.randint(-99, 99, (61,), generator=generator).float()
    x = torch.randint(-100, 155, (*shape, 48), generator=generator).float()[..., ::2]
    x += 0.8 * torch.rand(x.shape, generator=generator) - 0.4
    x[..., 0], x[..., 1] = -100, 155
    packed = VnniInt8Linear(weight_MK, bias_M)
    for layer in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        torch.testing.assert_close(layer(x), nn.functional.linear(x.round(), weight_MK, bias_M), rtol=1e-6, atol=0.01)
        pieces = dict(layer.pieces(x.reshape(-1, 24)))
        assert torch.equal(torch.cat([*pieces.values()], 1), layer(x).view(-1, 61))
        assert x.numel() == 24 or [*pieces] == [*range(0, 61, width)]


@needs_fbgemm
@needs_vnni
@pytest.mark.parametrize("missing", ["multiplies_int8", "_has_onednn"])
def test_int8_without_vnni_or_onednn(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(packed_linear.packed_linear("int8", torch.ones(3, 4), torch.zeros(3)), VnniInt8Linear)
    monkeypatch.setattr(packed_linear, missing, lambda: False)
    assert isinstance(packed_linear.packed_linear("int8", torch.ones(3, 4), torch.zeros(3)), Int8Linear)


@pytest.mark.parametrize("weights", ROUNDINGS)
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)], ids=str)
def test_no_rows(weights: str, shape: tuple[int, ...]) -> None:
    packed = packed_linear.packed_linear(weights, torch.ones(3, 4), torch.zeros(3))
    assert packed(torch.empty(*shape, 4)).shape == (*shape, 3)


def test_what_the_processor_has_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_vnni_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not packed_linear.multiplies_bfloat16()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert packed_linear.multiplies_bfloat16() == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
