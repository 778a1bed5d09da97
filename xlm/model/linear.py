"""``linear``: the function that all float32 matrix products of the model go through.

torch hands float32 products to MKL. On AMD processors, MKL reaches half of the speed of oneDNN, which torch includes
too: on an EPYC with AVX-512, 100 and 220 GFLOP/s on one core. There, ``linear`` calls oneDNN with the weights as they
are. ``docs/speed.md`` has the measurements.

The processor's maker and the shapes decide, so results do not change from run to run. Wherever torch records or
transforms operations, such as in ``torch.compile`` or ``vmap``, they see the plain operation.

Shapes: N rows, K input width, M output width.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

_FEW_MULTIPLICATIONS = 1 << 21
"""Below N * K * M of about two million, calling oneDNN takes longer than multiplying: 13 µs, and 2 µs for MKL."""

_PLAIN_TYPES = (Tensor, nn.Parameter)

_HOOKS = tuple(f"_{direction}{kind}hooks" for direction in ("forward_", "backward_") for kind in ("", "pre_"))


def _made_by_amd() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            return any("AuthenticAMD" in line for line in islice(file, 10))
    except OSError:
        return "AuthenticAMD" in os.environ.get("PROCESSOR_IDENTIFIER", "")  # Windows


def _find_onednn() -> Any:
    """Return oneDNN's linear layer, or ``None`` where torch lacks it or MKL is not known to be slower.

    The operator and the functions that show what torch records are private, so any of them may disappear.
    """
    seen = ("_is_tracing", "_are_functorch_transforms_active", "_len_torch_dispatch_stack", "_len_torch_function_stack")
    complete = all(hasattr(torch._C, name) for name in seen) and hasattr(forward_ad, "_current_level")
    if not (complete and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and _made_by_amd()):  # type: ignore[no-untyped-call]
        return None
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return getattr(operator, "default", None)


_ONEDNN = _find_onednn()


def onednn_is_faster() -> bool:
    """Return whether ``linear`` uses oneDNN on this processor."""
    return _ONEDNN is not None


def linear(x: Tensor, weight_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, as ``torch.nn.functional.linear`` does, by the faster library.

    Args:
        x: (…, K).
        weight_MK: Weights; a transposed view is as good as a contiguous tensor.
        bias_M: Bias.

    Returns:
        (…, M), which can be differentiated any number of times.
    """
    tensors = (x, weight_MK) if bias_M is None else (x, weight_MK, bias_M)
    if _ONEDNN is None or _is_recorded() or not _suits_onednn(*tensors):
        return F.linear(x, weight_MK, bias_M)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out: Tensor = _OneDNNLinear.apply(x, weight_MK, bias_M)  # type: ignore[no-untyped-call]
        return out
    return _multiply(x, weight_MK, bias_M)


def apply_linear(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)``; for a plain ``nn.Linear``, by ``linear``.

    A module with hooks, parametrizations or its own ``forward``, or of any other class, is called as it is.
    """
    # The cheap checks come first: in a small model, the others would take longer than the product.
    if (
        _ONEDNN is None
        or type(module) is not nn.Linear
        or type(x) is not Tensor
        or torch.compiler.is_compiling()
        or x.numel() * module.out_features < _FEW_MULTIPLICATIONS
        or _is_recorded()
        or _has_own_forward(module)
    ):
        out: Tensor = module(x)
        return out
    return linear(x, module.weight, module.bias)


def _has_own_forward(module: nn.Module) -> bool:
    hooked = any(getattr(module, name) or getattr(torch_module, f"_global{name}") for name in _HOOKS)
    return hooked or "forward" in vars(module)


def _suits_onednn(x: Tensor, weight_MK: Tensor, *bias: Tensor) -> bool:
    """Return whether oneDNN takes these tensors, and is faster."""
    return (
        # First, because in a small model the other checks would take longer than the product.
        x.numel() * len(weight_MK) >= _FEW_MULTIPLICATIONS
        and all(
            type(tensor) in _PLAIN_TYPES
            and tensor.dtype == torch.float32
            and tensor.device.type == "cpu"
            and tensor.layout == torch.strided
            and not tensor.is_nested
            for tensor in (x, weight_MK, *bias)
        )
        # In other cases, F.linear broadcasts or raises its error.
        and x.dim() > 0
        and weight_MK.dim() == 2
        and x.shape[-1] == weight_MK.shape[1]
        and all(tensor.shape == weight_MK.shape[:1] for tensor in bias)
        and (weight_MK.is_contiguous() or weight_MK.t().is_contiguous())
    )


def _is_recorded() -> bool:
    """Return whether torch records, transforms or converts the operations that are called now."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or not torch._C._get_mkldnn_enabled()
    )


def _multiply(x: Tensor, weight_MK: Tensor, bias_M: Tensor | None) -> Tensor:
    out: Tensor = _ONEDNN(x, weight_MK, bias_M, "none", [], "")
    return out


class _OneDNNLinear(torch.autograd.Function):
    """``linear`` by oneDNN, with gradients by ``linear``, which can therefore be differentiated themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_MK: Tensor, bias_M: Tensor | None) -> Tensor:
        """Return the product, and keep what its gradients need."""
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight_MK if needs_x else None)
        return _multiply(x, weight_MK, bias_M)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of the inputs, the weights and the bias, where they are needed."""
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        x, weight_MK = ctx.saved_tensors
        grad_NM = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight_MK.t()) if needs_x else None,
            linear(grad_NM.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            grad_NM.sum(0) if needs_bias else None,
        )
