"""Linear maps that only infer, on the CPU: weights copied once into the layout that is read fastest.

With one row, a map costs what reading its weights costs, so half the bytes are half the time. torch carries FBGEMM's
kernels for x86, which multiply float32 rows with weights kept in float16 or int8, converted on the way; they reach the
bandwidth of memory where torch's own bfloat16 kernels need a processor that multiplies bfloat16, and then half of it.

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
"""Up to here a map is bound by reading its weights, not by multiplying."""

_MANY_ROWS, _WIDTH = 128, 4096
"""From so many rows on, a wider product in float32 is made so many outputs at a time, a quarter faster: in one piece,
each row that it writes is far from the next."""

TYPICAL_ROWS = 32
"""That oneDNN lays weights out for; laid out for 8 or 256 they were multiplied as fast, for 1 slower with more rows."""

_PACKED_WIDTH = 8192
"""Outputs that FBGEMM is given at a time, for the same reason; here every number of rows has the same pieces."""

_FINEST_STEP = 6.1e-5
"""Between two levels of a row of int8: FBGEMM takes no smaller one."""


class PackedLinear(nn.Module):
    """``x @ weight.T + bias`` for float32 rows, without gradients.

    Args:
        weight_MK: Weights, any floating type.
        bias_M: Bias.
    """

    def __init__(self, weight_MK: Tensor, bias_M: Tensor) -> None:
        super().__init__()
        self.outputs = len(bias_M)
        self.pack(weight_MK, bias_M.float().clone())  # FBGEMM keeps what it is given

    @property
    def width(self) -> int:
        """Outputs M' of a piece of many rows; M where there is one piece."""
        return self.outputs

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:
        """Keeps copies of weight and bias in this class's layout."""
        raise NotImplementedError

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yields all outputs, some at a time where that is faster: the first one's number, and (N, M').

        What is yielded may be overwritten with the next piece.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(…, K) float32 to (…, M) float32."""
        pieces = self.pieces(x.reshape(-1, x.shape[-1]))
        _, out_NM = piece = next(pieces)
        if out_NM.shape[1] < self.outputs:
            out_NM = x.new_empty(len(out_NM), self.outputs)
            for first, part_NM in itertools.chain((piece,), pieces):
                out_NM[:, first : first + part_NM.shape[1]] = part_NM
        return out_NM.view(*x.shape[:-1], self.outputs)


class Float32Linear(PackedLinear):
    """Exact. Few rows are multiplied by oneDNN, with a copy of the weights in its own layout; many by torch itself."""

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        self.weight_MK = weight_MK.float().contiguous()
        self.bias_M = bias_M
        self._pack_for_few_rows()

    def _pack_for_few_rows(self) -> None:
        self.few_rows = None
        if _has_onednn():
            self.few_rows = torch.ops.mkldnn._reorder_linear_weight(self.weight_MK, TYPICAL_ROWS)

    def __getstate__(self) -> dict[str, Any]:
        # What is in oneDNN's layout can be neither copied nor pickled, only made again.
        return {**self.__dict__, "few_rows": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack_for_few_rows()

    @property
    def width(self) -> int:  # noqa: D102
        return min(self.outputs, _WIDTH)

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        N, many = len(x_NK), len(x_NK) >= _MANY_ROWS
        # A thread alone reads the weights of one row faster as they are.
        if self.few_rows is not None and not many and (N > 1 or torch.get_num_threads() > 1):
            yield 0, torch.ops.mkldnn._linear_pointwise(x_NK, self.few_rows, self.bias_M, "none", [], "")
            return
        width = self.width if many else self.outputs
        # One for all, so that the system clears its pages once.
        memory = x_NK.new_empty(N * width)
        for first in range(0, self.outputs, width):
            bias_m, weight_mK = self.bias_M[first : first + width], self.weight_MK[first : first + width]
            out_Nm = memory[: N * len(bias_m)].view(N, len(bias_m))
            yield first, torch.addmm(bias_m, x_NK, weight_mK.T, out=out_Nm)


class Float16Linear(PackedLinear):
    """Weights rounded to float16, everything else in float32; by FBGEMM."""

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
    """Weights as int8 with one scale an output, rows as 8-bit numbers with one scale a row; by FBGEMM.

    The kernel rounds what it is given to levels that reach from the smallest to the largest number of the call. One row
    it is given as it is. Several are first rounded here, each to the levels that are its alone, and brought back after:
    so a row's numbers do not depend on what stands beside it.
    """

    def pack(self, weight_MK: Tensor, bias_M: Tensor) -> None:  # noqa: D102 (as the base class)
        scale_M, zeros_M = _int8_scales(weight_MK), torch.zeros(len(weight_MK), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch 2.13 announces the end of quantized tensors; without them _has_fbgemm is false.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight_MK.float(), scale_M, zeros_M, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias_M)
        self.sum_M = (quantized.int_repr().sum(1) * scale_M.double()).float()
        self.bias_M = bias_M
        # Without these instructions, sums of two products are kept in 16 bits, which rows of 8 bits overflow.
        self.seven_bits = not multiplies_int8()

    def pieces(self, x_NK: Tensor) -> Iterator[tuple[int, Tensor]]:  # noqa: D102
        # The kernel makes ordinary numbers of most that are not, so that nobody would notice later.
        if not math.isfinite(float(x_NK.sum())):
            raise InputError(
                "what comes into a layer with int8 weights is not finite",
                where="weights",
                found="NaN or infinity",
                expected="finite numbers",
                remedy="another type shows where they come from: for_inference('float32')",
            )
        if len(x_NK) > 1:
            yield 0, self._several(x_NK)
        else:
            yield 0, torch.ops.quantized.linear_dynamic(x_NK, self.packed, self.seven_bits)

    def _several(self, x_NK: Tensor) -> Tensor:
        most = 127 if self.seven_bits else 255
        low_N1, high_N1 = torch.aminmax(x_NK, dim=1, keepdim=True)
        low_N1 = low_N1.clamp_max(0)
        step_N1 = (high_N1.clamp_min(0) - low_N1).div_(most).clamp_min_(torch.finfo(torch.float32).tiny)
        zero_N1 = (-low_N1 / step_N1).round_()  # the level of 0, which the kernel keeps exact too
        step_N1 = step_N1.clamp_min_(_FINEST_STEP)
        levels_NK = (x_NK / step_N1).round_().add_(zero_N1).clamp_(0, most)
        # Beside a row that reaches the highest level (0 always counts), the kernel takes levels as they are.
        levels_NK = F.pad(levels_NK, (0, 0, 0, 1), value=most)
        out_NM: Tensor = torch.ops.quantized.linear_dynamic(levels_NK, self.packed, self.seven_bits)[:-1]
        return out_NM.addcmul_(zero_N1, self.sum_M, value=-1).mul_(step_N1).addcmul_(1 - step_N1, self.bias_M)


class Bfloat16Linear(PackedLinear):
    """Weights rounded to bfloat16, twice: for many rows on a processor that multiplies bfloat16, for few by FBGEMM.

    Of many rows the numbers and their products with the weights are rounded to bfloat16 too; the bias is not.
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


def _int8_scales(weight_MK: Tensor) -> Tensor:
    return weight_MK.float().abs().amax(1).clamp_min(1e-12) / 127


def multiplies_int8() -> bool:
    """Whether this processor has instructions that multiply 8-bit numbers and keep their sums in 32."""
    return _processor_has("_is_vnni_supported")


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions that multiply bfloat16, and torch the library that uses them."""
    instructions = _processor_has("_is_avx512_bf16_supported") or _processor_has("_is_amx_tile_supported")
    return instructions and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _processor_has(question: str) -> bool:
    # Torch's private names come and go with its versions; one that is missing counts as a no.
    supported = getattr(torch.cpu, question, None)
    return supported is not None and bool(supported())


def _has_fbgemm() -> bool:
    return torch.backends.quantized.engine in ("x86", "fbgemm") and hasattr(torch, "quantize_per_channel")


def _has_onednn() -> bool:
    """Whether torch carries oneDNN's kernels for x86; elsewhere they have not been measured."""
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    named = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return available and named and platform.machine().lower() in ("x86_64", "amd64")


def _rounded_to_int8(weight_MK: Tensor) -> Tensor:
    scale_M1 = _int8_scales(weight_MK)[:, None]
    return (weight_MK.float() / scale_M1).round() * scale_M1


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": Tensor.float,
    "bfloat16": Tensor.bfloat16,
    "float16": Tensor.half,
    "int8": _rounded_to_int8,
}
"""Types that weights can be kept in, and what each makes of a weight."""


def packed_linear(weights: str, weight_MK: Tensor, bias_M: Tensor, *, rounds_rows: bool = True) -> PackedLinear:
    """The fastest map that this processor has for weights of a type.

    Args:
        weights: One of ``ROUNDINGS``.
        weight_MK: Weights.
        bias_M: Bias.
        rounds_rows: Whether, for ``bfloat16``, rows and products may be rounded too where that is faster.

    Returns:
        Where torch lacks the kernels (other processors than x86), or float16 cannot hold the weights, weights are
        kept in float32, without the gain: the rounded ones, or as they were where the rounding to float16 itself
        would have lost them. So are int8's where some are not finite.
    """
    weight_MK, bias_M = weight_MK.detach(), bias_M.detach()
    if weights == "int8" and _has_fbgemm() and bool(weight_MK.isfinite().all()):
        return Int8Linear(weight_MK, bias_M)
    if weights == "float16" and not _float16_holds(weight_MK):
        return Float32Linear(weight_MK, bias_M)
    rounded_MK = ROUNDINGS[weights](weight_MK)
    if weights not in ("bfloat16", "float16") or not _has_fbgemm() or not _float16_holds(rounded_MK):
        return Float32Linear(rounded_MK, bias_M)
    if weights == "bfloat16" and rounds_rows and multiplies_bfloat16():
        return Bfloat16Linear(rounded_MK, bias_M)
    return Float16Linear(rounded_MK, bias_M)


def _float16_holds(weight_MK: Tensor) -> bool:
    """Whether float16 neither overflows nor loses more than its own last place of any row's largest weight."""
    weight_MK = weight_MK.float()
    lost_M = weight_MK.half().float().sub_(weight_MK).abs_().amax(1)
    # NaN compares as false, so that weights that are not finite are not held either.
    return bool((lost_M <= 2**-10 * weight_MK.abs().amax(1)).all())
