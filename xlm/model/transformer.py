"""Embeddings and post-norm transformer layers: token ids to hidden states.

Shapes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from xlm.errors import InputError
from xlm.model.attention import Attention, AttentionMask, CrossAttention, Source
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.initialisation import LearnedEmbedding, ResettableModule, SinusoidalEmbedding, reset_modules
from xlm.model.linear import apply_linear
from xlm.model.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerInputs:
    """Checked inputs of one forward pass; ``xlm.model.inputs.prepare_inputs`` returns them.

    Attributes:
        input_ids: (B, T) int64, each from 0 to V - 1; ``None`` if there is ``inputs_embeds``.
        inputs_embeds: (B, T, D) word embeddings in place of ``input_ids``.
        position_ids: (B, T) or (1, T) int64, each below ``max_position_embeddings``.
        langs: (B, T) or (B, 1) or (1, 1) int64, each below ``n_langs``; ``None`` adds no language embedding.
        valid: (B, T) boolean, true at real positions; ``None`` when there is no padding.
        right_padded: Whether padding, if any, follows all real positions.
    """

    input_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None
    position_ids: Tensor
    langs: Tensor | None = None
    valid: Tensor | None = None
    right_padded: bool = True

    @property
    def tokens(self) -> Tensor:
        """Ids or embeddings: the tensor whose first two dimensions are B and T."""
        tokens = self.input_ids if self.inputs_embeds is None else self.inputs_embeds
        assert tokens is not None, "inputs have ids or embeddings"
        return tokens

    @property
    def shape(self) -> tuple[int, int]:
        """B and T."""
        B, T = self.tokens.shape[:2]
        return B, T


@register_pytree
@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerOutput:
    """Output of the embeddings and layers.

    Attributes:
        hidden: (B, T, D) output of the last layer; zero at padding.
        hidden_states: The embeddings and each layer's output, L + 1 tensors (B, T, D), if requested.
        attentions: Each layer's attention weights, L tensors (B, N, T, S), if requested.
        cross_attentions: Each layer's cross-attention weights, if there is a source and if requested.
    """

    hidden: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class Embeddings(ResettableModule):
    """Normalised sum of word, position and language embeddings.

    Source: paper section 3.1 and figure 1; the original's ``TransformerModel.fwd``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        rows, width = config.max_position_embeddings, config.emb_dim
        std = width**-0.5 if config.embed_init_std is None else config.embed_init_std
        self.word: nn.Embedding = LearnedEmbedding(config.vocab_size, width, std=std, padding_idx=config.pad_token_id)
        self.position: nn.Embedding = (
            SinusoidalEmbedding(rows, width) if config.sinusoidal_embeddings else LearnedEmbedding(rows, width, std=std)
        )
        self.language: nn.Embedding | None = (
            LearnedEmbedding(config.n_langs, width, std=std) if config.has_language_embeddings else None
        )
        self.norm = nn.LayerNorm(config.emb_dim, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(self, inputs: TransformerInputs) -> Tensor:
        """Return the embedded tokens, (B, T, D)."""
        words_BTD = self.word(inputs.input_ids) if inputs.inputs_embeds is None else inputs.inputs_embeds
        x_BTD = words_BTD + self.position(inputs.position_ids)
        if self.language is not None and inputs.langs is not None:
            x_BTD = x_BTD + self.language(inputs.langs)
        return F.dropout(self.norm(x_BTD), p=self.dropout, training=self.training)


class FeedForward(ResettableModule):
    """Two linear layers with an activation between them; the inner width is 4 D.

    Source: the original's ``TransformerFFN``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.down = nn.Linear(4 * config.emb_dim, config.emb_dim)
        self.activation = F.gelu if config.gelu_activation else F.relu

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return apply_linear(self.down, self.activation(apply_linear(self.up, x_BTD)))


class Layer(ResettableModule):
    """Attention, then feed-forward, each with a residual connection and a layer norm after it (post-norm).

    In a decoder that has a source, a layer attends to this source between its self-attention and its feed-forward part.
    """

    def __init__(self, config: XLMConfig, *, has_source: bool = False) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.emb_dim, eps=config.layer_norm_eps)
        self.cross_attention = CrossAttention(config) if has_source else None
        self.cross_attention_norm = nn.LayerNorm(config.emb_dim, eps=config.layer_norm_eps) if has_source else None
        self.ffn = FeedForward(config)
        self.ffn_norm = nn.LayerNorm(config.emb_dim, eps=config.layer_norm_eps)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTD: Tensor,
        mask: AttentionMask,
        *,
        layer: int,
        cache: XLMCache | None = None,
        source: Source | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Map (B, T, D) to (B, T, D); also return the weights of both kinds of attention if requested."""
        attended_BTD, *weights = _parts(
            self.attention(x_BTD, mask, layer=layer, cache=cache, output_attentions=output_attentions),
            1 if output_attentions else 0,
        )
        x_BTD = self.attention_norm(x_BTD + F.dropout(attended_BTD, p=self.dropout, training=self.training))
        if source is not None and self.cross_attention is not None and self.cross_attention_norm is not None:
            attended_BTD, *cross_weights = _parts(
                self.cross_attention(x_BTD, source, layer=layer, output_attentions=output_attentions),
                1 if output_attentions else 0,
            )
            weights += cross_weights
            x_BTD = self.cross_attention_norm(x_BTD + F.dropout(attended_BTD, p=self.dropout, training=self.training))
        x_BTD = self.ffn_norm(x_BTD + F.dropout(self.ffn(x_BTD), p=self.dropout, training=self.training))
        return x_BTD, *weights


class LayerList(nn.ModuleList):
    """The layers of a transformer, in order: an ``nn.ModuleList`` of which type checkers know the items."""

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, idx: slice) -> LayerList: ...
        @overload
        def __getitem__(self, idx: int) -> Layer: ...
        def __getitem__(self, idx: int | slice) -> Layer | LayerList: ...
        def __iter__(self) -> Iterator[Layer]: ...


class Transformer(ResettableModule):
    """Embeddings and layers, without a head.

    Attributes:
        recomputed: Every how many layers one keeps only its input for the backward pass, which computes it again; 0
            means that no layer does.

    Args:
        config: The architecture.
        has_source: Whether the layers can attend to a source, as those of the decoder of an encoder-decoder do.

    Source: paper section 3.1; the original's ``TransformerModel``.
    """

    recomputed: int = 0

    def __init__(self, config: XLMConfig, *, has_source: bool = False) -> None:
        super().__init__()
        self.causal = config.causal
        self.embeddings = Embeddings(config)
        self.layers = LayerList(Layer(config, has_source=has_source) for _ in range(config.n_layers))

    def reset_parameters(self) -> None:
        """Draw new weights, in the order in which a new model draws them."""
        reset_modules([self.layers, self.embeddings])

    def forward(
        self,
        inputs: TransformerInputs,
        *,
        cache: XLMCache | None = None,
        source: Source | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TransformerOutput:
        """Return the hidden states of all positions.

        Args:
            inputs: Checked ids, positions, languages and padding.
            cache: Keys and values of earlier tokens; those of ``inputs`` are appended in place.
            source: Encoder output that the layers attend to. Without it, a decoder is a language model.
            output_hidden_states: Whether to return the embeddings and every layer's output.
            output_attentions: Whether to return every layer's attention weights.
        """
        if cache is None:
            mask = AttentionMask.without_cache(
                causal=self.causal, valid_BT=inputs.valid, right_padded=inputs.right_padded
            )
        else:
            mask = AttentionMask.with_cache(cache, inputs.shape[1])
        padding_BT1 = None if inputs.valid is None else ~inputs.valid[:, :, None]
        x_BTD = _zero_padding(self.embeddings(inputs), padding_BT1)
        states, attentions, cross_attentions = [x_BTD], [], []
        kinds = 1 if source is None else 2  # of attention
        recomputed = self.recomputed if torch.is_grad_enabled() else 0
        for index, layer in enumerate(self.layers):
            run = partial(checkpoint, layer, use_reentrant=False) if recomputed and index % recomputed == 0 else layer
            x_BTD, *weights = _parts(
                run(x_BTD, mask, layer=index, cache=cache, source=source, output_attentions=output_attentions),
                kinds if output_attentions else 0,
            )
            x_BTD = _zero_padding(x_BTD, padding_BT1)
            if output_hidden_states:
                states.append(x_BTD)
            attentions += weights[:1]
            cross_attentions += weights[1:]
        if cache is not None:
            cache.advance(inputs.shape[1], None if inputs.valid is None else inputs.valid.sum(1))
        return TransformerOutput(
            hidden=x_BTD,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if cross_attentions else None,
        )


def _parts(output: tuple[Tensor, ...] | Tensor, weights: int) -> tuple[Tensor, ...]:
    """Return the hidden states and the requested attention weights, which a module or a hook on it returned.

    A hook may return the hidden states alone, unless weights are requested: they would be missing, or be taken for
    those of the other kind of attention.
    """
    parts = (output,) if isinstance(output, Tensor) else tuple(output)
    if len(parts) <= weights:
        raise InputError(
            "a layer or its attention returned too few attention weights",
            where="output_attentions",
            found=f"{len(parts)} items",
            expected=f"{1 + weights} items: hidden states, then weights",
            remedy="let a hook return all items that it receives, or do not request attentions",
        )
    return parts[: 1 + weights]


def _zero_padding(x_BTD: Tensor, padding_BT1: Tensor | None) -> Tensor:
    return x_BTD if padding_BT1 is None else x_BTD.masked_fill(padding_BT1, 0.0)
