"""Multi-head self-attention, and which positions may look at which.

Shapes: B batch, T query positions, S key positions, N heads, H head width, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Visibility:
    """Which keys each query may look at; made once for a forward, used by every layer.

    Attributes:
        mask: Boolean, broadcasts to (B, N, T, S), true where a query may look; ``None`` means no mask.
        is_causal: The plain lower triangle with T = S; ``mask`` is then ``None``, and faster kernels apply.
    """

    mask: Tensor | None = None
    is_causal: bool = False

    @classmethod
    def without_cache(cls, *, causal: bool, valid_BT: Tensor | None, right_padded: bool) -> Visibility:
        """Visibility among the positions of one forward.

        Args:
            causal: Whether a position sees only itself and what is left of it.
            valid_BT: True at real positions, (B, T) boolean; ``None`` when there is no padding.
            right_padded: Whether padding, if any, stands behind all real positions. Below the diagonal there is then
                nothing but real positions for a real query, so that the causal triangle alone is right.
        """
        if valid_BT is None or (causal and right_padded):
            return cls(is_causal=causal)
        if not causal:
            # Every row has a real token, so no query is left with nothing to look at.
            return cls(mask=valid_BT[:, None, None, :])
        T, device = valid_BT.shape[1], valid_BT.device
        mask_BTS = valid_BT[:, None, :] & torch.ones(T, T, dtype=torch.bool, device=device).tril()
        # Padding with only padding before it sees nothing, and a softmax over nothing is NaN: let each position see
        # itself. For a real query that changes nothing.
        mask_BTS |= torch.eye(T, dtype=torch.bool, device=device)
        return cls(mask=mask_BTS[:, None])

    @classmethod
    def with_cache(cls, cache: XLMCache, positions: int) -> Visibility:
        """Causal visibility of ``positions`` new tokens, a cache's tokens being left of them.

        A row's padding stands behind its real tokens, in slots that only later, overwriting tokens come to see.
        """
        if cache.longest == 0 and cache.slots(positions) == positions:
            return cls(is_causal=True)
        if cache.uniform_length is not None and positions == 1:
            return cls()
        device = cache.lengths.device
        last_visible_BT = cache.lengths[:, None] + torch.arange(positions, device=device)
        slots_S = torch.arange(cache.slots(positions), device=device)
        return cls(mask=(slots_S <= last_visible_BT[:, :, None])[:, None])

    def as_mask(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The same as one boolean mask that broadcasts to (B, N, T, S)."""
        if self.is_causal:
            return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
        return self.mask


class Attention(nn.Module):
    """Multi-head self-attention with biases everywhere.

    Source: paper section 3.1 through Vaswani et al. 2017; the original's ``MultiHeadAttention``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.emb_dim, config.emb_dim)
        self.key = nn.Linear(config.emb_dim, config.emb_dim)
        self.value = nn.Linear(config.emb_dim, config.emb_dim)
        self.output: nn.Module = nn.Linear(config.emb_dim, config.emb_dim)

    def forward(
        self,
        x_BTD: Tensor,
        visibility: Visibility,
        *,
        layer: int,
        cache: XLMCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What each position takes from those it may look at.

        Args:
            x_BTD: Input, (B, T, D).
            visibility: Which keys each query may look at.
            layer: Index of this layer in the cache.
            cache: Written in place when given.
            output_attentions: Also return the weights; slower, since no fused kernel gives them.

        Returns:
            (B, T, D), and the attention weights (B, N, T, S) or ``None``.
        """
        query_BNTH, key_BNSH, value_BNSH = (self._heads(part_BTD) for part_BTD in self.project(x_BTD))
        if cache is not None:
            key_BNSH, value_BNSH = cache.write(layer, key_BNSH, value_BNSH)
        dropout = self.dropout if self.training else 0.0
        weights_BNTS: Tensor | None = None
        if output_attentions:
            weights_BNTS = _attention_weights(query_BNTH, key_BNSH, visibility)
            context_BNTH = F.dropout(weights_BNTS, p=dropout) @ value_BNSH
        else:
            context_BNTH = F.scaled_dot_product_attention(
                query_BNTH,
                key_BNSH,
                value_BNSH,
                attn_mask=visibility.mask,
                dropout_p=dropout,
                is_causal=visibility.is_causal,
            )
        return self.output(context_BNTH.transpose(1, 2).flatten(2)), weights_BNTS

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads side by side, each (B, T, D)."""
        return self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.view(*x_BTD.shape[:2], self.n_heads, -1).transpose(1, 2)


def _attention_weights(query_BNTH: Tensor, key_BNSH: Tensor, visibility: Visibility) -> Tensor:
    scores_BNTS: Tensor = (query_BNTH * query_BNTH.shape[-1] ** -0.5) @ key_BNSH.transpose(-2, -1)
    mask = visibility.as_mask(scores_BNTS.shape[-2], scores_BNTS.shape[-1], scores_BNTS.device)
    if mask is not None:
        scores_BNTS = scores_BNTS.masked_fill(~mask, float("-inf"))
    # As in the original, half precision ends before the softmax.
    return at_least_float32(scores_BNTS).softmax(-1).to(query_BNTH.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision numbers as float32, wider ones as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
