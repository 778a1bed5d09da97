"""Adam as the original has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from xlm.training.sharding import local


class OriginalAdam(Optimizer):
    """Adam with ``eps`` inside the bias correction, and a decay of every weight that gradients have no part in.

    One update, number t from 1, with gradient g::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p = p - weight_decay * lr * p
        p = p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    torch's ``AdamW`` differs: it adds ``eps`` to the corrected ``sqrt(v)``, which in the first updates is a much larger
    number. Moments are kept in float32 or wider, and shared out among processes as their parameters are.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Of the two moments.
        eps: Added to ``sqrt(v)``.
        weight_decay: Share of a weight, in units of the learning rate, that each update takes from it; biases and norms
            included, as in the original.

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
        """Updates every parameter that has a gradient.

        Args:
            closure: Computes the loss again; for torch's interface, no one here needs it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for updates, same in self._by_age(parameters).items():
                self._update(same, updates, group)
        return loss

    def _by_age(self, parameters: list[nn.Parameter]) -> dict[int, list[nn.Parameter]]:
        """Parameters by the number of this update; all have the same, unless some were without a gradient before."""
        ages: dict[int, list[nn.Parameter]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                kind = torch.promote_types(parameter.dtype, torch.float32)
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter, dtype=kind)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=kind)
            state["step"] += 1
            ages.setdefault(state["step"], []).append(parameter)
        return ages

    def _update(self, owners: list[nn.Parameter], updates: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        lr: float = group["lr"]
        # Each number is updated by itself, so that a process needs nothing but its part of the tensors.
        parameters: list[Tensor] = [local(parameter) for parameter in owners]
        first: list[Tensor] = [local(self.state[parameter]["exp_avg"]) for parameter in owners]
        second: list[Tensor] = [local(self.state[parameter]["exp_avg_sq"]) for parameter in owners]
        gradients = [
            local(parameter.grad).to(moment.dtype)
            for parameter, moment in zip(owners, first, strict=True)
            if parameter.grad is not None
        ]
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
