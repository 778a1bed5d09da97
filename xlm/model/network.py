"""From token ids to scores of the next word: what a language model computes.

Shapes: B batch, T positions, S positions including the cache's, N heads, D model width, V vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.errors import InputError, XLMWarning
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead
from xlm.model.inputs import InputKeywords, Languages, check_shape, check_whole, prepare_inputs
from xlm.model.transformer import Transformer, TransformerOutput

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class XLMOutput:
    """What a forward gives; also indexed like a tuple of what is there, in this order (``outputs[0]``).

    Attributes:
        loss: Mean negative log-probability of the counted labels, in nats; a scalar, when labels were given.
        logits: (B, T, V) scores of the next token; log-probabilities when the head is an adaptive softmax.
        hidden_states: The embeddings and each layer's output, L + 1 tensors (B, T, D), when asked for.
        attentions: Each layer's attention weights, L tensors (B, N, T, S), when asked for.
        cache: The cache that was given, now holding the new tokens too.
    """

    loss: Tensor | None = None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cache: XLMCache | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Everything that is there, in the order of the attributes."""
        values = (getattr(self, f.name) for f in fields(self))
        return tuple(value for value in values if value is not None)

    def __getitem__(self, index: int) -> Any:
        return self.to_tuple()[index]


class Network(nn.Module):
    """The transformer with its head; what ``XLMWithLMHeadModel`` computes with.

    Args:
        config: The architecture.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.head: LinearHead | AdaptiveHead = AdaptiveHead(config) if config.asm else LinearHead(config)
        self._warned_about_langs = False
        # What the file it was loaded from held beside weights and architecture; save_pretrained writes it again.
        self.provenance: object = None
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        config, embeddings = self.config, self.transformer.embeddings
        if self.device.type == "meta":
            return
        std = config.emb_dim**-0.5 if config.embed_init_std is None else config.embed_init_std
        nn.init.normal_(embeddings.word.weight, std=std)
        if not config.sinusoidal_embeddings:
            nn.init.normal_(embeddings.position.weight, std=std)
        if embeddings.language is not None:
            nn.init.normal_(embeddings.language.weight, std=std)
        embeddings.word.weight[config.pad_token_id].zero_()
        if isinstance(self.head, LinearHead):
            bound = config.emb_dim**-0.5
            nn.init.uniform_(self.head.bias, -bound, bound)
            if self.head.weight is not None:
                nn.init.uniform_(self.head.weight, -bound, bound)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.embeddings.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of what is computed with them."""
        return self.transformer.embeddings.norm.weight.dtype

    def new_cache(self, batch_size: int, *, capacity: int | None = None) -> XLMCache:
        """An empty cache of this model's type, on its device.

        Args:
            batch_size: Rows B.
            capacity: Tokens it can hold a row; ``None`` means the model's longest input.
        """
        return XLMCache(self.config, batch_size, capacity=capacity, dtype=self.dtype, device=self.device)

    def forward(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: XLMCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> XLMOutput:
        """Scores of the next token at every position.

        Args:
            input_ids: (B, T) int64, ids from 0 to V - 1.
            langs: Language of the tokens: a name or id for all, one a row, or (B, T) int64. Without it a multilingual
                model adds no language embedding, which it never saw in training; that warns once.
            lengths: (B,) int64, real tokens of each row, the rest of it being padding.
            attention_mask: (B, T), 0 at padding; instead of ``lengths``, and for padding on the left.
                Without both, ``<pad>`` is padding.
            position_ids: (B, T) int64 below ``max_position_embeddings``; by default 0, 1, … from the row's start,
                or from the end of what the cache holds.
            labels: (B, T) int64, the same tokens as ``input_ids``: they are shifted inside, so that position t is
                judged on label t + 1. A bidirectional model's labels are not shifted: position t is judged on label
                t. -100 does not count.
            cache: Holds earlier tokens and takes these in; needs ``torch.no_grad()`` and padding on the right.
            output_hidden_states: Also return the embeddings and every layer's output.
            output_attentions: Also return the attention weights.

        Raises:
            InputError: A shape, type or value that the model cannot take.
            LanguageError: A language that the model does not have.
        """
        if langs is None:
            self._warn_about_langs(stacklevel=5)  # past this, forward and the two frames of nn.Module.__call__
        states = self._states(
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits_BTV = self.logits(states.hidden)
        return XLMOutput(
            loss=None if labels is None else self._loss(logits_BTV, states.hidden, labels),
            logits=logits_BTV,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
            cache=cache,
        )

    def hidden(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: XLMCache | None = None,
    ) -> Tensor:
        """The last layer's output alone, for work that needs few of the logits or none; arguments as ``forward``'s.

        Returns:
            (B, T, D) in the model's type; ``logits`` of any of its rows gives what ``forward`` would have.
        """
        if langs is None:
            self._warn_about_langs(stacklevel=3)
        states = self._states(
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
        )
        return states.hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (…, V), for hidden states (…, D); log-probabilities for an adaptive softmax."""
        return self.head.logits(hidden, self.transformer.embeddings.word.weight)

    def _states(
        self,
        input_ids: Tensor,
        *,
        cache: XLMCache | None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **given: Unpack[InputKeywords],
    ) -> TransformerOutput:
        inputs = prepare_inputs(self.config, input_ids, cache=cache, **given)
        return self.transformer(  # type: ignore[no-any-return]
            inputs, cache=cache, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )

    def _loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        check_shape("labels", labels_BT, tuple(logits_BTV.shape[:2]))
        check_whole("labels", labels_BT)
        labels_BT = labels_BT.long()
        if self.config.causal:
            # Shifting the labels instead of cutting the logits keeps the large tensor whole, and uncopied.
            labels_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED_LABEL)
        counted_BT = labels_BT != IGNORED_LABEL
        wrong = (labels_BT < 0) | (labels_BT >= self.config.vocab_size)
        if not torch.compiler.is_compiling() and (not bool(counted_BT.any()) or bool((wrong & counted_BT).any())):
            raise InputError(
                "labels that the loss cannot be taken on",
                where="labels",
                found=f"{int(counted_BT.sum())} that count, {int((wrong & counted_BT).sum())} of them out of range",
                expected=f"at least one that counts, each from 0 to {self.config.vocab_size - 1} or {IGNORED_LABEL}",
            )
        return self.head.loss(logits_BTV, hidden_BTD, labels_BT)

    def _warn_about_langs(self, *, stacklevel: int) -> None:
        if not self.config.has_language_embeddings or self._warned_about_langs:
            return
        self._warned_about_langs = True
        names = ", ".join(sorted(self.config.lang2id)) or f"ids 0 to {self.config.n_langs - 1}"
        warnings.warn(
            f"this model has language embeddings ({names}) and was called without langs: no language embedding is "
            "added, which it never saw in training, and its predictions are much worse; give langs=",
            XLMWarning,
            stacklevel=stacklevel,
        )
