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

from xlm.errors import ConfigError, InputError, XLMWarning
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig, check_config
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead, apply_head, target_logprobs
from xlm.model.inputs import (
    InputKeywords,
    Languages,
    check_device,
    check_flag,
    check_shape,
    check_tensor,
    check_whole,
    looks_at_values,
    onto,
    prepare_inputs,
)
from xlm.model.transformer import Transformer, TransformerInputs, TransformerOutput

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class XLMOutput:
    """Forward output; also indexed by name (``outputs["logits"]``) or like a tuple of what is there (``outputs[0]``).

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

    def keys(self) -> tuple[str, ...]:
        """Return the names of what is there, in the order of the attributes."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return everything that is there, in the order of the attributes."""
        return tuple(getattr(self, name) for name in self.keys())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.keys()

    def __getitem__(self, index: str | int | slice) -> Any:
        if isinstance(index, str) and index in self.keys():
            return getattr(self, index)
        try:
            return self.to_tuple()[index]  # type: ignore[index]  # a name that is not there is no index either
        except (IndexError, TypeError) as error:
            raise OutputIndexError(
                "the output has no such entry", where="XLMOutput", found=repr(index), expected=", ".join(self.keys())
            ) from error


class OutputIndexError(InputError, KeyError, IndexError):
    """A name or number of something that an output does not hold."""


class Network(nn.Module):
    """The transformer with its head; what ``XLMWithLMHeadModel`` computes with.

    Args:
        config: The architecture.
    """

    check_inputs: bool = True

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        check_config(config, where=type(self).__name__)
        self.config = config
        self.transformer = Transformer(config)
        self.head: LinearHead | AdaptiveHead = AdaptiveHead(config) if config.asm else LinearHead(config)
        self._warned_about_langs = False
        # What the file it was loaded from held beside weights and architecture; save_pretrained writes it again.
        self.provenance: object = None
        self._initialise()

    def __setattr__(self, name: str, value: Any) -> None:
        # Every layer has taken from the first configuration what it needs; a second one would be obeyed in part.
        if name == "config" and value is not self.__dict__.get("config", value):
            raise ConfigError(
                "a model's configuration cannot be replaced",
                where="model.config",
                found="an assignment",
                expected="the configuration that the model was made from",
                remedy="from_pretrained takes causal=, dropout= and attention_dropout=; or make a new model: "
                "XLMWithLMHeadModel(model.config.replace(...)), then load_state_dict",
            )
        if name == "check_inputs" and not isinstance(value, bool):
            raise InputError("check_inputs is neither true nor false", where="model.check_inputs", found=repr(value))
        super().__setattr__(name, value)

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
        """Return scores of the next token at every position.

        Args:
            input_ids: (B, T) int64, ids from 0 to V - 1.
            langs: Language of the tokens: a name or id for all, one a row, or (B, T) int64. Without it a multilingual
                model adds no language embedding, which it never saw in training; that warns once.
            lengths: (B,) int64, real tokens of each row, the rest of it being padding.
            attention_mask: (B, T), 1 or true at tokens and 0 or false at padding, which may stand anywhere; instead of
                ``lengths``. Without both, ``<pad>`` is padding.
            position_ids: (B, T) int64 below ``max_position_embeddings``; by default 0, 1, … from each row's first
                token, or from the end of what the cache holds. Padding takes no position, whether it stands left of
                the tokens or among them: a row's tokens get what they get without it.
            labels: (B, T) int64, the same tokens as ``input_ids``: they are shifted inside, so that position t is
                judged on label t + 1. A bidirectional model's labels are not shifted: position t is judged on label
                t. -100 does not count, nor does padding: neither a label there, nor what is predicted from there.
            cache: Holds earlier tokens and takes these in; needs ``torch.no_grad()`` and padding on the right.
            output_hidden_states: Also return the embeddings and every layer's output.
            output_attentions: Also return the attention weights.

        Raises:
            InputError: A shape, type or value that the model cannot take.
            LanguageError: A language that the model does not have.
        """
        if langs is None:
            self._warn_about_langs(stacklevel=5)  # past this, forward and the two frames of nn.Module.__call__
        check_flag("output_hidden_states", output_hidden_states)
        check_flag("output_attentions", output_attentions)
        inputs = self._inputs(
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
        )
        if labels is not None:
            check_shape("labels", labels, tuple(input_ids.shape))
            check_whole("labels", labels)
        states: TransformerOutput = self.transformer(
            inputs, cache=cache, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        logits_BTV = self.logits(states.hidden)
        return XLMOutput(
            loss=None if labels is None else self._loss(logits_BTV, labels, inputs.valid),
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
        inputs = self._inputs(
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
        )
        states: TransformerOutput = self.transformer(inputs, cache=cache)
        return states.hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores of the next token, (…, V), for hidden states (…, D); log-probabilities for an adaptive softmax.

        Any module may take the place of ``model.head``: it is called with the hidden states alone, and what it returns
        is the logits.
        """
        what, D = "holds no hidden states", self.config.emb_dim
        expected = f"a tensor of floating-point numbers, (…, {D})"
        check_tensor("hidden", hidden, what, expected=expected)
        if not hidden.is_floating_point() or hidden.shape[-1:] != (D,):
            found = f"{hidden.dtype} of shape {tuple(hidden.shape)}"
            raise InputError(f"hidden {what}", where="hidden", found=found, expected=expected)
        return apply_head(self.head, hidden, self.transformer.embeddings.word.weight)

    def _inputs(
        self, input_ids: Tensor, *, cache: XLMCache | None, **given: Unpack[InputKeywords]
    ) -> TransformerInputs:
        inputs = prepare_inputs(self.config, input_ids, cache=cache, check_values=self.check_inputs, **given)
        check_device(inputs.input_ids, self.device)
        return inputs

    def _loss(self, logits_BTV: Tensor, labels_BT: Tensor, valid_BT: Tensor | None) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        labels_BT = onto("labels", labels_BT, logits_BTV.device).long()
        if valid_BT is not None:
            labels_BT = labels_BT.masked_fill(~valid_BT, IGNORED_LABEL)
        if self.config.causal:
            # Shifting the labels instead of cutting the logits keeps the large tensor whole, and uncopied.
            labels_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED_LABEL)
            if valid_BT is not None:
                labels_BT = labels_BT.masked_fill(~valid_BT, IGNORED_LABEL)
        counted_BT = labels_BT != IGNORED_LABEL
        if looks_at_values(labels_BT, self.check_inputs):
            self._check_labels(labels_BT, counted_BT, logits_BTV.shape[-1])
        logprobs_BT = target_logprobs(logits_BTV, labels_BT.masked_fill(~counted_BT, 0))
        # A sum of as many numbers whatever counts: neither waits for a GPU nor breaks a compiled graph.
        return -torch.where(counted_BT, logprobs_BT, 0).sum() / counted_BT.sum()

    def _check_labels(self, labels_BT: Tensor, counted_BT: Tensor, words: int) -> None:
        wrong_BT = counted_BT & ((labels_BT < 0) | (labels_BT >= words))
        counted, wrong = torch.stack([counted_BT.sum(), wrong_BT.sum()]).tolist()
        if not counted or wrong:
            raise InputError(
                "labels that the loss cannot be taken on",
                where="labels",
                found=f"{counted} that count, {wrong} of them out of range",
                expected=f"at least one that counts, each from 0 to {words - 1} or {IGNORED_LABEL}",
            )

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
