"""One step: the gradient of a batch, in pieces, and the update it makes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xlm.training.config import TrainConfig
from xlm.training.optimiser import OriginalAdam
from xlm.training.processes import Processes
from xlm.training.schedule import learning_rate
from xlm.training.sharding import whole

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step gave.

    Attributes:
        loss: Mean nats of this process's predicted tokens.
        grad_norm: Length of the whole gradient before it was clipped.
        lr: Learning rate.
        updated: Whether the weights changed; they do not when the gradient is not finite.
    """

    loss: float
    grad_norm: float
    lr: float
    updated: bool


class Stepper:
    """Takes steps.

    Args:
        module: ``LossModule``, perhaps wrapped for several processes.
        optimiser: Of its parameters.
        config: Batch, optimiser and precision.
        processes: Device and number of this process.
    """

    def __init__(
        self, module: nn.Module, optimiser: OriginalAdam, config: TrainConfig, *, processes: Processes
    ) -> None:
        self._module = module
        self._optimiser = optimiser
        self._config = config
        self._processes = processes
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._type = _TYPES[config.run.precision]
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self._type == torch.float16)

    def __call__(self, input_ids: Tensor, language: int, *, step: int, update: int) -> StepResult:
        """Computes the gradient of a batch and, if it is finite, changes the weights.

        Args:
            input_ids: (rows, W) int64, this process's rows.
            language: Id of their language.
            step: Number of the step, from 0; with the seed and the process it decides what dropout drops.
            update: Number of the update, from 0; it decides the learning rate.
        """
        settings = self._config.optimiser
        # No state of a generator needs to be kept: each step has its own.
        torch.manual_seed(_mixed(self._config.seed, step, self._processes.rank))
        self._optimiser.zero_grad()
        pieces = input_ids.to(self._processes.device, non_blocking=True).chunk(self._config.batch.accumulation)
        total = torch.zeros((), device=self._processes.device)
        for number, piece in enumerate(pieces, start=1):
            with self._exchanging(number == len(pieces)):
                with torch.autocast(self._processes.device.type, dtype=self._type, enabled=self._type != torch.float32):
                    loss: Tensor = self._module(piece, language) / len(pieces)
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        self.scaler.unscale_(self._optimiser)
        norm = float(whole(nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm, foreach=True)))
        rate = learning_rate(
            update,
            schedule=settings.schedule,
            lr=settings.lr,
            warmup=settings.warmup,
            updates=self._config.run.updates,
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        # Every process sees the same gradient, and so decides the same.
        finite = math.isfinite(norm)
        if finite:
            self.scaler.step(self._optimiser)
        if self.scaler.is_enabled():
            self.scaler.update()
        return StepResult(loss=float(total), grad_norm=norm, lr=rate, updated=finite)

    def _exchanging(self, now: bool) -> AbstractContextManager[None]:
        """Processes that hold whole gradients exchange them once a step, with the last piece; others have no room."""
        if now or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()


def _mixed(seed: int, step: int, rank: int) -> int:
    """One number of three, far from that of the next step."""
    mixed = seed
    for number in (step, rank):
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed
