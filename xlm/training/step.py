"""One training step: the gradient of a batch, piece by piece, and the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xlm.model.sharded import gather
from xlm.training.config import TrainConfig
from xlm.training.optimiser import OriginalAdam, learning_rate
from xlm.training.processes import Processes

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Result of a step.

    Attributes:
        loss: Loss of this process's part of the batch, not multiplied by its weight.
        grad_norm: Norm of the whole gradient before clipping.
        lr: Learning rate.
        updated: Whether the weights changed; they do not if the gradient is not finite.
    """

    loss: float
    grad_norm: float
    lr: float
    updated: bool


class TrainingStep:
    """Takes training steps.

    Args:
        module: ``ModelCaller``, perhaps wrapped for several processes.
        loss: Returns the loss of a piece of a batch, given the model and the piece.
        optimiser: Optimiser of the module's parameters.
        config: Configuration of the run.
        processes: Processes of the run.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        optimiser: OriginalAdam,
        config: TrainConfig,
        *,
        processes: Processes,
    ) -> None:
        self._module = module
        self._loss = loss
        self._optimiser = optimiser
        self._config = config
        self._processes = processes
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._dtype = _DTYPES[config.run.precision]
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self._dtype == torch.float16)

    def __call__(self, pieces: Sequence[Any], *, step: int, update: int, weight: float = 1.0) -> StepResult:
        """Compute the gradient of a batch and, if it is finite, update the weights.

        Args:
            pieces: This process's pieces of the batch, whose gradients are averaged.
            step: Number of the step, from 0. It seeds dropout, together with the seed of the run and the process.
            update: Number of the update, from 0. It determines the learning rate.
            weight: Factor by which the loss is multiplied before its gradient is computed.
        """
        settings, device = self._config.optimiser, self._processes.device.type
        # Every step has its own seed, so that checkpoints need not save the state of a generator.
        torch.manual_seed(_step_seed(self._config.seed, step, self._processes.rank))
        self._optimiser.zero_grad()
        total = torch.zeros((), device=self._processes.device)
        for number, piece in enumerate(pieces, start=1):
            with self._gradient_exchange(number == len(pieces)):
                with torch.autocast(device, dtype=self._dtype, enabled=self._dtype != torch.float32):
                    loss: Tensor = self._module(self._loss, piece) / len(pieces)
                torch.autograd.backward(self.scaler.scale(loss * weight))
            total += loss.detach()
        self.scaler.unscale_(self._optimiser)
        norm = float(gather(nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm, foreach=True)))
        rate = learning_rate(
            update,
            schedule=settings.schedule,
            lr=settings.lr,
            warmup_steps=settings.warmup_steps,
            max_steps=self._config.run.max_steps,
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        # Every process sees the same gradient, so all make the same decision.
        is_finite = math.isfinite(norm)
        if is_finite:
            self.scaler.step(self._optimiser)
        if self.scaler.is_enabled():
            self.scaler.update()
        return StepResult(loss=float(total), grad_norm=norm, lr=rate, updated=is_finite)

    def _gradient_exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """Return a context in which DDP exchanges gradients only with the last piece of a step.

        FSDP2 exchanges gradients with every piece, since it has no memory for whole gradients.
        """
        if is_last or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step in a process; seeds of neighbouring steps are far apart."""
    mixed = seed
    for number in (step, rank):
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed
