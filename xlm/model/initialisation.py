"""New weights, drawn as in the original; and embedding tables, which know how to draw theirs.

Every module of a model has a method ``reset_parameters``, which draws new weights for the module and all modules
inside it. A model that was built on the meta device thus gets weights by ``to_empty`` and ``reset_parameters``, also if
FSDP2 has sharded it in between.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xlm.model.sharded import is_sharded, place_like


def reset_modules(modules: Iterable[nn.Module]) -> None:
    """Call ``reset_parameters`` of each module; of its children if it has no such method, as a list of layers."""
    for module in modules:
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            reset_modules(module.children())


class ResettableModule(nn.Module):
    """A module whose ``reset_parameters`` draws new weights for the modules inside it."""

    def reset_parameters(self) -> None:
        """Draw new weights."""
        reset_modules(self.children())


def sinusoidal_positions(positions: int, width: int) -> Tensor:
    """Return fixed position embeddings: sine in even columns, cosine in odd ones.

    Args:
        positions: Number of rows.
        width: Number of columns D.

    Returns:
        (positions, width) float32; the angle in column j of row p is ``p / 10000 ** (2 * (j // 2) / width)``.

    Source: the original's ``create_sinusoidal_embeddings``.
    """
    column_D = torch.arange(width)
    # The original computes in float64 and rounds once.
    frequency_D = 10000.0 ** (2 * (column_D // 2).double() / width)
    angle_TD = torch.arange(positions).double()[:, None] / frequency_D
    return torch.where(column_D % 2 == 0, angle_TD.sin(), angle_TD.cos()).float()


class LearnedEmbedding(nn.Embedding):
    """An embedding table whose weights come from a normal distribution; the row of padding is zero.

    The constructor draws nothing: a model draws or loads all weights later. On the meta device, drawing weights imports
    half of torch's compiler, which takes three seconds.

    Args:
        rows: Number of embeddings.
        width: Width D of an embedding.
        std: Standard deviation of new weights.
        padding_idx: Row of padding, which is not trained.
    """

    def __init__(self, rows: int, width: int, *, std: float, padding_idx: int | None = None) -> None:
        super().__init__(rows, width, padding_idx=padding_idx, _weight=torch.empty(rows, width))
        self.std = std

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights."""
        nn.init.normal_(self.weight, std=self.std)
        if self.padding_idx is None:
            return
        if is_sharded(self.weight):
            kept = torch.ones(self.weight.shape)
            kept[self.padding_idx] = 0
            self.weight *= place_like(kept, self.weight)
        else:
            self.weight[self.padding_idx].zero_()


class SinusoidalEmbedding(nn.Embedding):
    """Fixed position embeddings, which are not trained.

    Args:
        rows: Number of positions.
        width: Width D of an embedding.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, _weight=sinusoidal_positions(rows, width))
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Compute the weights again, which ``to_empty`` loses."""
        table = sinusoidal_positions(self.num_embeddings, self.embedding_dim)
        self.weight.copy_(place_like(table.to(self.weight.dtype), self.weight))


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class whose ``forward`` a module has: a table is a plain embedding, however its weights are drawn."""
    return nn.Embedding if isinstance(module, LearnedEmbedding | SinusoidalEmbedding) else type(module)
