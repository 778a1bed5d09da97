"""Multi-head attention: of a sequence to itself, and of a decoder to its source.

Shapes: B batch, T query positions, S key positions, N heads, H head width, D model width, G source rows, W target rows
of each source row (B = G * W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.initialisation import ResettableModule
from xlm.model.linear import apply_linear

_MANY_HEADS = 64
"""If each row has one position, plain operations are faster from this number of heads of all rows together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionMask:
    """The keys that each query may attend to. Built once per forward pass and used by every layer.

    Attributes:
        allowed: Boolean, broadcasts to (B, N, T, S), true where a query may attend to a key; ``None`` means no mask.
        is_causal: Whether the mask is the plain lower triangle with T = S. ``allowed`` is then ``None``, so that faster
            kernels can be used.
    """

    allowed: Tensor | None = None
    is_causal: bool = False

    @classmethod
    def without_cache(cls, *, causal: bool, valid_BT: Tensor | None, right_padded: bool) -> AttentionMask:
        """Return the mask for a forward pass without a cache.

        Args:
            causal: Whether a position attends only to itself and to positions left of it.
            valid_BT: (B, T) boolean, true at real positions; ``None`` when there is no padding.
            right_padded: Whether padding, if any, follows all real positions. All keys that a real query may attend to
                are then real, so the causal triangle is enough.
        """
        if valid_BT is None or (causal and right_padded):
            return cls(is_causal=causal)
        if not causal:
            # Every row has at least one real token, so every query has a key.
            return cls(allowed=valid_BT[:, None, None, :])
        T, device = valid_BT.shape[1], valid_BT.device
        allowed_BTS = valid_BT[:, None, :] & torch.ones(T, T, dtype=torch.bool, device=device).tril()
        # A padding position that only padding precedes has no key, and a softmax over no keys is NaN. Let each position
        # attend to itself, which changes nothing for real queries.
        allowed_BTS |= torch.eye(T, dtype=torch.bool, device=device)
        return cls(allowed=allowed_BTS[:, None])

    @classmethod
    def with_cache(cls, cache: XLMCache, positions: int) -> AttentionMask:
        """Return the causal mask of ``positions`` new tokens that follow the tokens in a cache.

        A row's padding follows its real tokens. The cache slots of padding are overwritten before any query may attend
        to them.
        """
        if cache.longest == 0 and cache.slots(positions) == positions:
            return cls(is_causal=True)
        if cache.uniform_length is not None and positions == 1:
            return cls()
        device = cache.lengths.device
        last_allowed_BT = cache.lengths[:, None] + torch.arange(positions, device=device)
        slots_S = torch.arange(cache.slots(positions), device=device)
        return cls(allowed=(slots_S <= last_allowed_BT[:, :, None])[:, None])

    def as_tensor(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Return the mask as one boolean tensor that broadcasts to (B, N, T, S); ``None`` means no mask."""
        if self.is_causal:
            return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
        return self.allowed


class _Projections(ResettableModule):
    """The linear layers of attention, all with biases, and its settings."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.implementation = config.attn_implementation
        self.query = nn.Linear(config.emb_dim, config.emb_dim)
        self.key = nn.Linear(config.emb_dim, config.emb_dim)
        self.value = nn.Linear(config.emb_dim, config.emb_dim)
        self.output = nn.Linear(config.emb_dim, config.emb_dim)


class Attention(_Projections):
    """Multi-head self-attention; all projections have biases.

    The input of ``output`` is the results of all heads side by side: head n has the columns n * H to n * H + H - 1. A
    forward pre-hook on ``output`` can therefore remove heads, or put other values in their place.

    Attributes:
        implementation: ``"sdpa"``, torch's fused kernels, or ``"eager"``, plain operations, which can be differentiated
            twice and in forward mode. Attention weights are always computed by plain operations.

    Source: paper section 3.1 through Vaswani et al. 2017; the original's ``MultiHeadAttention``.
    """

    def forward(
        self,
        x_BTD: Tensor,
        mask: AttentionMask,
        *,
        layer: int,
        cache: XLMCache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the attention output, and the attention weights if requested.

        Args:
            x_BTD: (B, T, D) input.
            mask: The keys that each query may attend to.
            layer: Index of this layer in the cache.
            cache: Cache to write the keys and values into.
            output_attentions: Whether to return the attention weights. This is slower, since no fused kernel returns
                them.

        Returns:
            (B, T, D), and the attention weights (B, N, T, S) if requested.
        """
        query_BNTH, key_BNSH, value_BNSH = (_heads(part_BTD, self.n_heads) for part_BTD in self.project(x_BTD))
        eager = output_attentions or self.implementation == "eager"
        if cache is not None:
            key_BNSH, value_BNSH = cache.write(layer, key_BNSH, value_BNSH)
            eager = eager or _plain_is_faster(query_BNTH)
        dropout = self.dropout if self.training else 0.0
        context_BTD, weights_BNTS = _attend(query_BNTH, key_BNSH, value_BNSH, mask, dropout=dropout, eager=eager)
        out_BTD = apply_linear(self.output, context_BTD)
        return (out_BTD,) if weights_BNTS is None or not output_attentions else (out_BTD, weights_BNTS)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values with all heads side by side, each (B, T, D)."""
        return apply_linear(self.query, x_BTD), apply_linear(self.key, x_BTD), apply_linear(self.value, x_BTD)


class Source:
    """Encoder output that a decoder attends to.

    Args:
        hidden_GSD: (G, S, D) output of the encoder's last layer.
        valid_GS: (G, S) boolean, true at real positions; ``None`` when there is no padding.
        keep: Whether to keep the keys and values of each layer after they are first computed, for decoding.

    Attributes:
        target_rows: Number W of target rows that attend to each source row: rows W * i to W * i + W - 1 attend to row
            i. The beams of a sentence thus share its keys and values.
    """

    def __init__(self, hidden_GSD: Tensor, valid_GS: Tensor | None, *, keep: bool = False) -> None:
        self.hidden = hidden_GSD
        self.mask = AttentionMask.without_cache(causal=False, valid_BT=valid_GS, right_padded=True)
        self.target_rows = 1
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = {} if keep else None

    def keys_and_values(self, layer: int, attention: CrossAttention) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a layer, each (G, N, S, H)."""
        if self._kept is not None and layer in self._kept:
            return self._kept[layer]
        key_GNSH, value_GNSH = (
            _heads(part_GSD, attention.n_heads) for part_GSD in attention.project_source(self.hidden)
        )
        if self._kept is not None:
            key_GNSH, value_GNSH = self._kept[layer] = key_GNSH.contiguous(), value_GNSH.contiguous()
        return key_GNSH, value_GNSH

    def select_target_rows(self, rows: list[int]) -> None:
        """Let target row i attend to the source of the present target row ``rows[i]``."""
        sources = [row // self.target_rows for row in rows]
        # The number of adjacent target rows of each source, if it is the same for all sources; otherwise 1.
        width = next((i for i, source in enumerate(sources) if source != sources[0]), len(sources))
        kept = sources[::width]
        if sources != [source for source in kept for _ in range(width)]:
            width, kept = 1, sources
        self.target_rows = width
        if kept != list(range(len(self.hidden))):
            rows_R = torch.tensor(kept, device=self.hidden.device)
            self.hidden = self.hidden[rows_R]
            if self.mask.allowed is not None:
                self.mask = AttentionMask(allowed=self.mask.allowed[rows_R])
            if self._kept is not None:
                self._kept = {layer: (key[rows_R], value[rows_R]) for layer, (key, value) in self._kept.items()}


class CrossAttention(_Projections):
    """Multi-head attention of a decoder to its source; all projections have biases.

    Source: the original's ``MultiHeadAttention`` as ``encoder_attn``.
    """

    def forward(
        self, x_BTD: Tensor, source: Source, *, layer: int, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the attention output, and the attention weights when asked for.

        Args:
            x_BTD: (B, T, D) input.
            source: Encoder output.
            layer: Index of this layer.
            output_attentions: Whether to return the weights.

        Returns:
            (B, T, D), and the attention weights (B, N, T, S) when asked for.
        """
        B, T, D = x_BTD.shape
        G = B // source.target_rows
        key_GNSH, value_GNSH = source.keys_and_values(layer, self)
        # The target rows of one source row become further query positions.
        query_GNQH = _heads(apply_linear(self.query, x_BTD).view(G, -1, D), self.n_heads)
        dropout = self.dropout if self.training else 0.0
        eager = output_attentions or self.implementation == "eager"
        context_GQD, weights_GNQS = _attend(query_GNQH, key_GNSH, value_GNSH, source.mask, dropout=dropout, eager=eager)
        out_BTD = apply_linear(self.output, context_GQD.view(B, T, D))
        if weights_GNQS is None or not output_attentions:
            return (out_BTD,)
        S = weights_GNQS.shape[-1]
        return out_BTD, weights_GNQS.view(G, self.n_heads, -1, T, S).transpose(1, 2).flatten(0, 1)

    def project_source(self, hidden_GSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values with all heads side by side, each (G, S, D)."""
        return apply_linear(self.key, hidden_GSD), apply_linear(self.value, hidden_GSD)


def _heads(x_BTD: Tensor, n_heads: int) -> Tensor:
    return x_BTD.view(*x_BTD.shape[:2], n_heads, -1).transpose(1, 2)


def _attend(
    query_BNTH: Tensor,
    key_BNSH: Tensor,
    value_BNSH: Tensor,
    mask: AttentionMask,
    *,
    dropout: float,
    eager: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted sums of the values with all heads side by side, (B, T, D), and the weights if ``eager``."""
    weights_BNTS: Tensor | None = None
    if eager:
        weights_BNTS = _attention_weights(query_BNTH, key_BNSH, mask)
        context_BNTH = F.dropout(weights_BNTS, p=dropout) @ value_BNSH
    else:
        context_BNTH = F.scaled_dot_product_attention(
            query_BNTH,
            key_BNSH,
            value_BNSH,
            attn_mask=mask.allowed,
            dropout_p=dropout,
            is_causal=mask.is_causal,
        )
    return context_BNTH.transpose(1, 2).flatten(2), weights_BNTS


def _plain_is_faster(query_BNTH: Tensor) -> bool:
    """Return whether plain operations are faster than torch's fused kernel, which is made for many positions."""
    B, N, T, _ = query_BNTH.shape
    return query_BNTH.device.type == "cpu" and T == 1 and B * N >= _MANY_HEADS


def _attention_weights(query_BNTH: Tensor, key_BNSH: Tensor, mask: AttentionMask) -> Tensor:
    scores_BNTS: Tensor = (query_BNTH * query_BNTH.shape[-1] ** -0.5) @ key_BNSH.transpose(-2, -1)
    allowed = mask.as_tensor(scores_BNTS.shape[-2], scores_BNTS.shape[-1], scores_BNTS.device)
    if allowed is not None:
        scores_BNTS = scores_BNTS.masked_fill(~allowed, float("-inf"))
    # Compute the softmax in float32, as the original does.
    return at_least_float32(scores_BNTS).softmax(-1).to(query_BNTH.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Return a half-precision tensor as float32, and a wider one unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
