"""Weights that are shared out among the processes, for models that do not fit into one: FSDP2.

Each process keeps its part of the rows of every tensor, of its gradient and of its moments. The tensors of one layer
are whole only while that layer is at work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xlm.checkpoint.tensors import empty_model
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.processes import Processes


def share_out(module: nn.Module, model: XLMWithLMHeadModel, processes: Processes) -> None:
    """Shares out the weights of a model, moving them to the processes' devices one layer at a time.

    Args:
        module: What is called to compute with the model; everything that needs its weights happens inside.
        model: In it; the same in all processes. Its parameters are other objects afterwards.
        processes: All that the weights are shared among.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for layer in model.transformer.layers:
        fully_shard(layer, mesh=mesh)
    # What is left, embeddings and head, is needed at both ends: it stays whole from the forward to the backward pass.
    fully_shard(module, mesh=mesh)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory; a tensor that is not shared out as it is."""
    return _by(tensor, "to_local")


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from the parts of all processes, which must all call this."""
    return _by(tensor, "full_tensor")


def _by(tensor: Tensor, name: str) -> Tensor:
    # Only a DTensor has these methods. To import that class takes a second, which a run without shards need not spend.
    method: Callable[[], Tensor] | None = getattr(tensor, name, None)
    return tensor if method is None else method()


def placed_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor where a parameter of its shape is, shared out as that is; all processes must call this."""
    tensor = tensor.to(parameter.device)
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placements: Any = getattr(parameter, "placements", None)
    return distribute_tensor(tensor, mesh, placements)


@torch.no_grad()
def whole_model(model: XLMWithLMHeadModel, *, keep: bool) -> XLMWithLMHeadModel | None:
    """The model itself, or where its weights are shared out a copy on the CPU with whole ones.

    All processes must call this. Tensors come together one at a time.

    Args:
        model: The model.
        keep: Whether this process wants it; the others get None.
    """
    found, is_shared_out = {}, False
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        is_shared_out |= gathered is not tensor
        if keep and gathered is not tensor:
            found[name] = gathered.cpu()
    if not is_shared_out:
        return model if keep else None
    if not keep:
        return None
    copy = empty_model(model.config)
    copy.load_state_dict(found, assign=True)
    return copy
