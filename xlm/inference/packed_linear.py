"""Linear layers for inference on the CPU, with weights copied once into the layout that is fastest to read.

With one row of input, a layer takes as long as reading its weights, so half the bytes take half the time. torch
includes FBGEMM's kernels for x86, which multiply float32 rows with float16 or int8 weights and reach the memory's
bandwidth. torch's own bfloat16 kernels reach half of this bandwidth, and only on processors with bfloat16 instructions.

Shapes: K input width, M output width.
"""

from __future__ import annotations

import itertools
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.errors import InputError

FEW_ROWS = 8
"""Up to this number of rows, reading the weights takes longer than multiplying."""

_MANY_ROWS, _WIDTH = 128, 4096
"""From ``_MANY_ROWS`` rows on, a float32 product is computed ``_WIDTH`` outputs at a time. This takes a quarter less
time than a single product, whose rows are far apart in memory."""

TYPICAL_ROWS = 32
"""Number of rows for which oneDNN optimises the layout of the weights. Layouts for 8 or 256 rows were as fast; the
layout for 1 row was slower."""

_PACKED_WIDTH = 8192
"""Number of outputs that are computed at a time with float16 weights, and with int8 weights for several rows. A wider
product is slower, because its rows are far apart in memory."""

_FINEST_STEP = 6.1e-5
"""Smallest step between two int8 levels that FBGEMM accepts."""


class PackedLinear(nn.Module):
    """``x @ weight.T + bias`` for float32 rows, without gradients.

    Args:
        weight_MK: Weights, any floating type.
        bias_M: Bias.
    """

    def __init__(self, weight_MK: Tensor, bias_M: Tensor) -> None:
        super().__init__()
        self.outputs = len(bias_M)
        self.pack(weight_MK, bias_M.float().clone())  # FBGEMM keeps a reference to the bias

    @property
    def width(self) -> int:
        """Number of outputs M' in a piece when there are many rows; M if there is only one piece."""
        return self.outputs

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:
        """Store copies of the weights and the bias in the layout of this class."""
        raise NotImplementedError

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield all outputs for (N, K) inputs in pieces: the index of a piece's first output, and its (N, M') outputs.

        A piece may be overwritten by the next one.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, K) float32 to (…, M) float32."""
        pieces = self.pieces(x.reshape(-1, x.shape[-1]))
        _, out_NM = piece = next(pieces)
        if out_NM.shape[1] < self.outputs:
            out_NM = x.new_empty(len(out_NM), self.outputs)
            for first, part_NM in itertools.chain((piece,), pieces):
                out_NM[:, first : first + part_NM.shape[1]] = part_NM
        return out_NM.view(*x.shape[:-1], self.outputs)


class Float32Linear(PackedLinear):
    """Float32 layer: by oneDNN with the weights in its own layout, or by torch with the weights as they are.

    Attributes:
        weight: The weights, in one of these layouts.
        by_onednn: Whether the layout is that of oneDNN.
    """

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        self.bias_M = bias_M
        self._pack_weight(weight_MK.detach().float().contiguous())

    def _pack_weight(self, weight_MK: Tensor) -> None:
        self.by_onednn = _has_onednn()
        self.weight = weight_MK
        if self.by_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_MK, TYPICAL_ROWS)

    def plain_weight(self) -> Tensor:
        """Return the weights (M, K) as an ordinary tensor."""
        return self.weight.to_dense() if self.by_onednn else self.weight

    def __getstate__(self) -> dict[str, Any]:
        # A tensor in oneDNN's layout cannot be copied or pickled.
        return {**self.__dict__, "weight": self.plain_weight()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack_weight(self.weight)

    @property
    def width(self) -> int:  # noqa: D102
        return self.outputs if self.by_onednn else min(self.outputs, _WIDTH)

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        if self.by_onednn:
            yield 0, torch.ops.mkldnn._linear_pointwise(x_NK, self.weight, self.bias_M, "none", [], "")
            return
        N = len(x_NK)
        width = self.width if N >= _MANY_ROWS else self.outputs
        # One buffer serves all pieces, so that the system clears its pages only once.
        memory = x_NK.new_empty(N * width)
        for first in range(0, self.outputs, width):
            bias_m, weight_mK = self.bias_M[first : first + width], self.weight[first : first + width]
            out_Nm = memory[: N * len(bias_m)].view(N, len(bias_m))
            yield first, torch.addmm(bias_m, x_NK, weight_mK.T, out=out_Nm)


class Float16Linear(PackedLinear):
    """FBGEMM layer with weights rounded to float16, and everything else in float32."""

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        self.packed = [
            torch.ops.quantized.linear_prepack_fp16(weight_mK.float(), bias_m)
            for weight_mK, bias_m in zip(
                torch.split(weight_MK, _PACKED_WIDTH), torch.split(bias_M, _PACKED_WIDTH), strict=True
            )
        ]

    @property
    def width(self) -> int:  # noqa: D102
        return min(self.outputs, _PACKED_WIDTH)

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        for number, packed in enumerate(self.packed):
            yield number * _PACKED_WIDTH, torch.ops.quantized.linear_dynamic_fp16(x_NK, packed)


class Int8Linear(PackedLinear):
    """FBGEMM layer with int8 weights (one scale per output) and 8-bit inputs (one scale per row).

    The kernel rounds its input to levels between the smallest and the largest number of all rows. Several rows are
    therefore first rounded here, each to its own levels, and the results are scaled back. A row's result then does not
    depend on the other rows.
    """

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        scale_M, zeros_M = _int8_scales(weight_MK), torch.zeros(len(weight_MK), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch 2.13 warns that it will drop quantized tensors; without them, _has_fbgemm returns False.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight_MK.float(), scale_M, zeros_M, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias_M)
        self.sum_M = (quantized.int_repr().sum(1) * scale_M.double()).float()
        self.bias_M = bias_M
        # Without VNNI instructions, the kernel adds two products in 16 bits, which 8-bit inputs would overflow.
        self.seven_bits = not multiplies_int8()

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        yield 0, self.one_row(x_NK) if x_NK.shape[0] == 1 else self._several(x_NK)

    def one_row(self, x: Tensor) -> Tensor:
        """Map one row, (…, K), to (…, M)."""
        _check_finite(x)
        out: Tensor = torch.ops.quantized.linear_dynamic.default(x, self.packed, self.seven_bits)
        return out

    def _several(self, x_NK: Tensor) -> Tensor:
        most = 127 if self.seven_bits else 255
        _check_finite(x_NK)
        step_N1, zero_N1 = _row_levels(x_NK, most)
        # An additional row with the highest level makes the kernel's own levels equal to these, so it rounds nothing.
        levels_LK = x_NK.new_empty(len(x_NK) + 1, x_NK.shape[1])
        levels_LK[-1] = most
        torch.div(x_NK, step_N1, out=levels_LK[:-1]).round_().add_(zero_N1).clamp_(0, most)
        out_NM: Tensor = torch.ops.quantized.linear_dynamic(levels_LK, self.packed, self.seven_bits)[:-1]
        return out_NM.addcmul_(zero_N1, self.sum_M, value=-1).mul_(step_N1).addcmul_(1 - step_N1, self.bias_M)


class VnniInt8Linear(PackedLinear):
    """Layer with int8 weights, stored twice: FBGEMM computes one row, and oneDNN computes several.

    As in ``Int8Linear``, each row is rounded to its own levels, so its result does not depend on the other rows. The
    processor must have VNNI instructions: without them, oneDNN adds two products in 16 bits, which 8-bit inputs
    overflow.
    """

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        self.fbgemm = Int8Linear(weight_MK, bias_M)
        self._pack_for_several_rows()

    def _pack_for_several_rows(self) -> None:
        quantized_MK, _ = torch.ops.quantized.linear_unpack(self.fbgemm.packed)
        self.scale_M = quantized_MK.q_per_channel_scales().float()
        self.zeros_M = torch.zeros(self.outputs, dtype=torch.int32)
        self.several_rows = [
            torch.ops.onednn.qlinear_prepack(levels_mK, [TYPICAL_ROWS, levels_mK.shape[1]])
            for levels_mK in torch.split(quantized_MK.int_repr(), _PACKED_WIDTH)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # A tensor in oneDNN's layout cannot be copied or pickled.
        return {**self.__dict__, "several_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack_for_several_rows()

    @property
    def width(self) -> int:  # noqa: D102
        return min(self.outputs, _PACKED_WIDTH)

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        if x_NK.shape[0] == 1:
            yield 0, self.fbgemm.one_row(x_NK)
        else:
            yield from self._several(x_NK, None)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.numel() == x.shape[-1]:
            return self.fbgemm.one_row(x) if x.dim() > 1 else self.fbgemm.one_row(x[None])[0]
        x_NK = x.reshape(-1, x.shape[-1])
        out_NM = x.new_empty(len(x_NK), self.outputs)
        for _ in self._several(x_NK, out_NM):
            pass
        return out_NM.view(*x.shape[:-1], self.outputs)

    def _several(self, x_NK: Tensor, into_NM: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Yield the outputs in pieces, which are views of ``into_NM`` unless that is ``None``."""
        step_N1, zero_N1 = _row_levels(x_NK, 255)
        _check_finite(step_N1)  # NaN or infinity in a row makes its step so too
        levels_NK = _round_to_uint8((x_NK / step_N1).add_(zero_N1))
        zero_N1.mul_(step_N1)
        for number, weights in enumerate(self.several_rows):
            first = number * _PACKED_WIDTH
            part = slice(first, first + _PACKED_WIDTH)
            scales, outputs = (self.scale_M[part], self.zeros_M[part]), (1.0, 0, torch.float32)
            # Step 1 and zero 0 for the inputs, no bias, step 1 and zero 0 for the outputs, no activation.
            out_Nm = torch.ops.onednn.qlinear_pointwise(
                levels_NK, 1.0, 0, weights, *scales, None, *outputs, "none", [], ""
            )
            target_Nm = out_Nm if into_NM is None else into_NM[:, part]
            torch.addcmul(self.fbgemm.bias_M[part], out_Nm, step_N1, out=target_Nm)
            yield first, target_Nm.addcmul_(zero_N1, self.fbgemm.sum_M[part], value=-1)


class Bfloat16Linear(PackedLinear):
    """Layer with weights rounded to bfloat16, stored twice: torch computes many rows, and FBGEMM computes few.

    With many rows, inputs and products are rounded to bfloat16 too, but the bias is not. The processor must have
    bfloat16 instructions.
    """

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        self.weight_MK = weight_MK.bfloat16().contiguous()
        self.bias_M = bias_M
        self.few_rows = Float16Linear(self.weight_MK, bias_M)

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        if len(x_NK) <= FEW_ROWS:
            yield from self.few_rows.pieces(x_NK)
        else:
            yield 0, F.linear(x_NK.bfloat16(), self.weight_MK).float().add_(self.bias_M)


def _row_levels(x_NK: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the levels 0 to ``most`` to which FBGEMM would round each row alone.

    Returns:
        (N, 1) step between two levels, and (N, 1) level that stands for 0, which the kernels represent exactly.
    """
    # On a CPU, amin and amax together take a tenth of the time of aminmax.
    low_N1 = x_NK.amin(1, keepdim=True).clamp_max_(0)
    high_N1 = x_NK.amax(1, keepdim=True).clamp_min_(0)
    step_N1 = high_N1.sub_(low_N1).div_(most).clamp_min_(torch.finfo(torch.float32).tiny)
    zero_N1 = (-low_N1 / step_N1).round_()
    return step_N1.clamp_min_(_FINEST_STEP), zero_N1


def _round_to_uint8(x: Tensor) -> Tensor:
    """Round numbers to integers from 0 to 255; overwrites them.

    Above 2**23, float32 has no fractions, so the sum is rounded, and its lowest byte is the integer. Converting
    floating-point numbers to ``uint8`` takes torch four times as long as converting integers.
    """
    return x.add_(2.0**23).clamp_(2.0**23, 2.0**23 + 255).view(torch.int32).to(torch.uint8)


def _check_finite(x: Tensor) -> None:
    """Raise ``InputError`` for NaN and infinity, which the kernels would silently map to finite values."""
    if not math.isfinite(float(x.sum())):
        raise InputError(
            "the input of a layer with int8 weights is not finite",
            where="weights",
            found="NaN or infinity",
            expected="finite numbers",
            remedy="look for NaN among the weights, or use float32 weights",
        )


def _int8_scales(weight_MK: Tensor) -> Tensor:
    return weight_MK.float().abs().amax(1).clamp_min(1e-12) / 127


def multiplies_int8() -> bool:
    """Return whether this processor has instructions for 8-bit products with 32-bit sums (VNNI)."""
    return _processor_has("_is_vnni_supported")


def multiplies_bfloat16() -> bool:
    """Return whether this processor has bfloat16 instructions, and torch includes a library that uses them."""
    instructions = _processor_has("_is_avx512_bf16_supported") or _processor_has("_is_amx_tile_supported")
    return instructions and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _processor_has(check: str) -> bool:
    # These functions of torch are private and may disappear.
    supported = getattr(torch.cpu, check, None)
    return supported is not None and bool(supported())


def _has_fbgemm() -> bool:
    return torch.backends.quantized.engine in ("x86", "fbgemm") and hasattr(torch, "quantize_per_channel")


def _has_onednn() -> bool:
    """Return whether torch includes oneDNN's kernels, and the processor is an x86; no other was measured."""
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    named = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return available and named and platform.machine().lower() in ("x86_64", "amd64")


def _has_onednn_int8() -> bool:
    named = all(hasattr(torch.ops.onednn, name) for name in ("qlinear_prepack", "qlinear_pointwise"))
    return multiplies_int8() and _has_onednn() and named


def _rounded_to_int8(weight_MK: Tensor) -> Tensor:
    scale_M1 = _int8_scales(weight_MK)[:, None]
    return (weight_MK.float() / scale_M1).round() * scale_M1


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": Tensor.float,
    "bfloat16": Tensor.bfloat16,
    "float16": Tensor.half,
    "int8": _rounded_to_int8,
}
"""Types of packed weights, each with the function that rounds weights to it."""


def packed_linear(weights: str, weight_MK: Tensor, bias_M: Tensor, *, rounds_rows: bool = True) -> PackedLinear:
    """Return the fastest layer on this processor for a type of weights.

    Args:
        weights: A key of ``ROUNDINGS``.
        weight_MK: Weights.
        bias_M: Bias.
        rounds_rows: Whether ``bfloat16`` may also round inputs and products where that is faster.

    Returns:
        A layer with rounded weights. On processors without the kernels (other than x86), the layer stores rounded
        weights in float32 and is not faster. Weights that float16 cannot represent are not rounded to float16, and
        weights that are not finite are not rounded to int8; the layer stores them in float32.
    """
    weight_MK, bias_M = weight_MK.detach(), bias_M.detach()
    if weights == "int8" and _has_fbgemm() and bool(weight_MK.isfinite().all()):
        return (VnniInt8Linear if _has_onednn_int8() else Int8Linear)(weight_MK, bias_M)
    if weights == "float16" and not _float16_holds(weight_MK):
        return Float32Linear(weight_MK, bias_M)
    rounded_MK = ROUNDINGS[weights](weight_MK)
    if weights not in ("bfloat16", "float16") or not _has_fbgemm() or not _float16_holds(rounded_MK):
        return Float32Linear(rounded_MK, bias_M)
    if weights == "bfloat16" and rounds_rows and multiplies_bfloat16():
        return Bfloat16Linear(rounded_MK, bias_M)
    return Float16Linear(rounded_MK, bias_M)


def _float16_holds(weight_MK: Tensor) -> bool:
    """Return whether float16 holds every weight with an error of at most 2**-10 of its row's largest magnitude."""
    weight_MK = weight_MK.float()
    lost_M = weight_MK.half().float().sub_(weight_MK).abs_().amax(1)
    # Comparisons with NaN are false, so weights that are not finite do not pass.
    return bool((lost_M <= 2**-10 * weight_MK.abs().amax(1)).all())
