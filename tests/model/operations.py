"""A recorder of torch operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the name of each operation, with the shapes of its tensors and its other arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[str, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shown = [
            f"{tuple(each.shape)} {each.stride()}" if isinstance(each, Tensor) else repr(each)
            for each in torch.utils._pytree.tree_leaves((args, kwargs))
        ]
        self.made.append((str(func), *shown))
        return func(*args, **(kwargs or {}))
