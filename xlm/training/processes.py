"""The processes of a run, and how a model is divided among them: one process, DDP, or FSDP2.

With FSDP2, each process keeps a part of the rows of every weight, of its gradient and of its moments. The weights of a
layer are gathered only while the layer computes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from xlm.checkpoint.tensors import empty_model
from xlm.errors import ConfigError, TrainingError
from xlm.model.head import AdaptiveHead
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.sharded import gather
from xlm.model.transformer import Layer, Transformer
from xlm.training.config import RunSettings

TrainableModel: TypeAlias = XLMWithLMHeadModel | XLMEncoderDecoderModel
"""Class of the models that a run can train."""

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """The processes of a run, from the view of one process.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        device: Device that this process computes on.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Return the sum of each number over the processes, in float64."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def merged(self, items: dict[Any, Any]) -> dict[Any, Any]:
        """Return the items of all processes."""
        if self.count == 1:
            return items
        gathered: list[dict[Any, Any]] = [{}] * self.count
        dist.all_gather_object(gathered, items)
        return {key: value for each in gathered for key, value in each.items()}

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        if self.count > 1:
            self.sums([0.0])  # unlike a barrier, this works without choosing a device


@contextmanager
def join_processes(device: str, *, timeout: int) -> Iterator[Processes]:
    """Join the process group that torchrun started, and leave it at the end. A single process joins no group.

    If the caller has already joined a group (``torch.distributed.init_process_group``), that group is used and left
    open.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        timeout: Seconds after which a process that waits for another gives up.

    Raises:
        ConfigError: ``device`` is ``cuda``, and there is no GPU.
        TrainingError: Another process died, or did not answer in time.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU", where="run.device", found=device, expected="cpu or auto")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    is_joined = dist.is_available() and dist.is_initialized()
    count = dist.get_world_size() if is_joined else int(os.environ.get("WORLD_SIZE", "1"))
    own_device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(own_device)
    if count == 1:
        yield Processes(rank=0, count=1, device=own_device)
        return
    if not is_joined:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=own_device)
        if not is_joined:
            finish_collectives()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise TrainingError(
            "another process of the run died or does not respond",
            where=f"process {dist.get_rank()} of {dist.get_world_size()}",
            found=str(error).partition("\n")[0],
            remedy="read the last messages of the others; --resume continues from the last checkpoint",
        ) from error
    finally:
        if not is_joined:
            dist.destroy_process_group()


_LAST_REDUCED = torch.zeros(1)


def finish_collectives() -> None:
    """Make it safe for this process to exit. All processes of the group call this, and no collective follows.

    Gloo's threads drop the tensors of a collective shortly after it has ended. A tensor of which Python holds no more
    references is then freed by such a thread, which aborts the process if the interpreter is already exiting. So the
    last collective is one whose tensor lives as long as the interpreter.
    """
    if dist.get_backend() == "gloo":
        dist.all_reduce(_LAST_REDUCED)


class ModelCaller(nn.Module):
    """Calls functions on a model inside the ``forward`` of this module, because DDP and FSDP2 act in ``forward`` only.

    Args:
        model: The model.
    """

    def __init__(self, model: TrainableModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(model, *arguments)``."""
        return function(self.model, *arguments)


def wrap_model(
    caller: ModelCaller, run: RunSettings, processes: Processes, *, skips_parameters: bool = False
) -> nn.Module:
    """Move a model to its device and prepare it for the processes of the run.

    Args:
        caller: Module around the model, which is on the CPU and the same in all processes. With FSDP2, the model
            has other parameter objects afterwards.
        run: Settings of the run.
        processes: Processes of the run.
        skips_parameters: Whether some steps have no gradient for some parameters, the same in all processes.

    Returns:
        The module to call in training steps: ``caller`` itself, or DDP around it.

    Raises:
        ConfigError: The model cannot be sharded.
    """
    model = caller.model
    layers = _modules(model, Layer)
    skips_words = bool(_modules(model, AdaptiveHead))  # it skips word clusters without a target
    if run.activation_checkpointing:
        for transformer in _modules(model, Transformer):
            transformer.recomputed = 1
    if processes.count > 1 and run.sharding == "full":
        # If one process skipped a cluster of words, the others would wait for it forever.
        if skips_words:
            raise ConfigError(
                "an adaptive softmax cannot be sharded", where="run.sharding", found=run.sharding, expected="none"
            )
        if run.compile:
            for layer in layers:
                layer.compile()
        _shard(caller, layers, processes)
        return caller
    model.to(processes.device)
    if run.compile:
        for transformer in _modules(model, Transformer):
            transformer.compile()
    if processes.count == 1:
        return caller
    return DistributedDataParallel(caller, find_unused_parameters=skips_words or skips_parameters)


def _modules(model: nn.Module, kind: type[Module]) -> list[Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _shard(caller: ModelCaller, layers: list[Layer], processes: Processes) -> None:
    """Shard the weights of a model with FSDP2, moving one layer at a time to the device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # Embeddings and head are at both ends of the network, so they stay gathered from the forward to the backward pass.
    fully_shard(caller, mesh=mesh)


@contextmanager
def decoding_mode(model: nn.Module) -> Iterator[None]:
    """Let each process run a model as often as its own sentences need.

    All processes must enter this together, and compute without gradients inside. The weights of a sharded model stay
    gathered. A compiled model runs uncompiled, since shapes change with every step.

    Args:
        model: The model, or a part of it.
    """
    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    sharded: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    hooks = [(module, module._forward_pre_hooks, module._forward_hooks) for module in sharded]
    # Gathered here, not in a block of torch.inference_mode: FSDP2 keeps the tensors, and autograd needs them later.
    for module in sharded:
        module.unshard()
    # FSDP2's hooks would gather and free the weights at each call, and record it for the order of the backward pass.
    for module in sharded:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
            yield
    finally:
        for module, before, after in hooks:
            module._forward_pre_hooks, module._forward_hooks = before, after
            module.reshard()


@torch.no_grad()
def gather_model(
    model: TrainableModel, *, keep: bool, adapt: Callable[[TrainableModel], object] | None = None
) -> TrainableModel | None:
    """Return a model with unsharded weights: the model itself, or a copy on the CPU if it is sharded.

    All processes must call this. One tensor is gathered at a time.

    Args:
        model: The model.
        keep: Whether this process needs the model; the others get None.
        adapt: Inserts the adapters that the model has into a new model.
    """
    weights, is_sharded = {}, False
    for name, tensor in model.state_dict().items():
        gathered = gather(tensor)
        is_sharded |= gathered is not tensor
        if keep and gathered is not tensor:
            weights[name] = gathered.cpu()
    if not keep or not is_sharded:
        return model if keep else None
    copy = empty_model(model.config, type(model))
    if adapt is not None:
        adapt(copy)
    copy.load_state_dict(weights, assign=True)
    return copy
