"""The original's Adam, and the learning rate of each update."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from xlm.model.sharded import local_part

_CPU_NUMBERS = 1 << 18
"""How many numbers of a tensor are updated at once on a CPU: 1 MB each of the weights, the gradient, both moments and
temporary values, which then stay in its caches."""

START = 1e-7
"""Learning rate at which the warm-up starts. Source: the original's ``warmup_init_lr``."""


class OriginalAdam(Optimizer):
    """Adam with ``eps`` added before the bias correction, and decoupled weight decay.

    Update number t, from 1, with gradient g::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - weight_decay * lr * p
        p = p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    torch's ``AdamW`` adds ``eps`` only after the bias correction of ``sqrt(v)``. In the first updates, this correction
    makes ``sqrt(v)`` much larger. Moments are in float32 or wider, and sharded like their parameters.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay rates of the two moments.
        eps: Added to ``sqrt(v)``.
        weight_decay: Each update shrinks every weight by this fraction times the learning rate. As in the original,
            biases and layer norms shrink too.

    Source: the original's ``Adam`` in ``src/optim.py``.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: Computes the loss; part of torch's interface, unused by the training loop.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for updates, same_age in self._by_age(parameters).items():
                self._update(same_age, updates, group)
        return loss

    def _by_age(self, parameters: list[nn.Parameter]) -> dict[int, list[nn.Parameter]]:
        """Group parameters by their number of updates, this one included; updates without a gradient do not count."""
        ages: dict[int, list[nn.Parameter]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter, dtype=dtype)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=dtype)
            state["step"] += 1
            ages.setdefault(state["step"], []).append(parameter)
        return ages

    def _update(self, owners: list[nn.Parameter], updates: int, group: dict[str, Any]) -> None:
        # The update is element-wise, so each process needs only its own part of the tensors.
        parameters: list[Tensor] = [local_part(parameter) for parameter in owners]
        first: list[Tensor] = [local_part(self.state[parameter]["exp_avg"]) for parameter in owners]
        second: list[Tensor] = [local_part(self.state[parameter]["exp_avg_sq"]) for parameter in owners]
        gradients = [
            local_part(parameter.grad).to(moment.dtype)
            for parameter, moment in zip(owners, first, strict=True)
            if parameter.grad is not None
        ]
        tensors = parameters, gradients, first, second
        if all(parameter.device.type == "cpu" for parameter in parameters):
            for parts in zip(*(itertools.chain.from_iterable(map(_parts, each)) for each in tensors), strict=True):
                _step(*([part] for part in parts), updates=updates, group=group)
        else:
            _step(*tensors, updates=updates, group=group)


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Divide a tensor into views of up to ``_CPU_NUMBERS`` numbers."""
    if tensor.numel() <= _CPU_NUMBERS:
        return (tensor,)
    return torch.split(tensor, max(1, _CPU_NUMBERS * len(tensor) // tensor.numel()))


def _step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    *,
    updates: int,
    group: dict[str, Any],
) -> None:
    beta1, beta2 = group["betas"]
    lr: float = group["lr"]
    torch._foreach_mul_(first, beta1)
    torch._foreach_add_(first, gradients, alpha=1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
    denominators = torch._foreach_sqrt(second)
    torch._foreach_add_(denominators, group["eps"])
    if group["weight_decay"]:
        torch._foreach_mul_(parameters, 1 - group["weight_decay"] * lr)
    corrected = lr * (1 - beta2**updates) ** 0.5 / (1 - beta1**updates)
    if all(parameter.dtype == moment.dtype for parameter, moment in zip(parameters, first, strict=True)):
        torch._foreach_addcdiv_(parameters, first, denominators, -corrected)
    else:
        steps = torch._foreach_div(first, denominators)
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step, alpha=-corrected)


def learning_rate(update: int, *, schedule: str, lr: float, warmup_steps: int, max_steps: int) -> float:
    """Return the learning rate of an update.

    Args:
        update: Number of the update, from 0.
        schedule: Shape after the warm-up: ``inverse_sqrt`` (the original's ``adam_inverse_sqrt``) falls as the
            inverse square root of ``update``, ``cosine`` falls to a tenth of ``lr`` at the end of the run,
            ``constant`` stays at ``lr``.
        lr: Highest learning rate.
        warmup_steps: Number of updates over which the rate rises linearly from ``START`` to ``lr``.
        max_steps: Number of updates in the whole run.

    Source: the original's ``AdamInverseSqrtWithWarmup`` in ``src/optim.py``.
    """
    if update < warmup_steps:
        return START + update * (lr - START) / warmup_steps
    if schedule == "inverse_sqrt":
        return lr * math.sqrt(max(warmup_steps, 1) / max(update, 1))
    if schedule == "cosine":
        fraction = min(1.0, (update - warmup_steps) / max(1, max_steps - warmup_steps))
        return lr * (0.55 + 0.45 * math.cos(math.pi * fraction))
    return lr
