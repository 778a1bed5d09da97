"""The language model: the transformer with its head, as users meet it.

Shapes: B batch, T positions, S positions including the cache's, N heads, D model width, V vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.errors import InputError, XLMWarning
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.decoding.generate import TokenStream, continue_prompts, with_prompts
from xlm.model.decoding.options import DecodingKeywords, DecodingOptions, shows_decoding_options
from xlm.model.decoding.prompts import Prompts, prepare_prompts
from xlm.model.decoding.result import Continuation
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead
from xlm.model.inputs import Languages, check_shape, check_whole, prepare_inputs
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


class XLMWithLMHeadModel(nn.Module):
    """An XLM language model.

    Args:
        config: The architecture. Weights are drawn as the original draws them: embeddings normal with standard
            deviation ``emb_dim ** -0.5``, linear maps by torch's default.

    Source: paper section 3; the original's ``TransformerModel`` with ``PredLayer``.
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

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        causal: bool | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> XLMWithLMHeadModel:
        """A model with the weights of a file, in evaluation mode.

        Args:
            name_or_path: A directory in the ``transformers`` layout, a checkpoint of the original (``.pth``), the name
                of a model that comes with the package (``"xlm-clm-ende-small"``), or an id on the Hugging Face hub,
                perhaps with ``@revision``; looked for in that order.
            dtype: Of the weights; ``None`` means float32 whatever the file holds, ``"auto"`` the file's own.
            device: Where the weights go; the CPU when ``None``.
            causal: Overrides what the file says. ``None``: causal, unless the file is known to have been trained
                otherwise (the published configurations' ``causal: false`` does not count, and a warning says so).
            revision: Of a model on the hub: a branch, a tag or a commit; ``main`` when ``None``.
            cache_dir: Where fetched files are kept; where ``HF_HOME`` or ``HF_HUB_CACHE`` say when ``None``.
            local_files_only: Whether to take what the cache holds and ask nobody, as ``HF_HUB_OFFLINE=1`` does.
            token: For a model that is not public; when ``None`` it is ``HF_TOKEN`` or what ``hf auth login`` left.

        Raises:
            CheckpointError: What was found is not such a model; nothing in a file is ever executed.
            HubError: It could not be fetched from the hub; one of the above.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.load import load_model

        hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        return load_model(name_or_path, dtype=dtype, device=device, causal=causal, hub=hub)

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Writes ``config.json`` and ``model.safetensors`` in the ``transformers`` layout.

        Args:
            directory: Made when missing; files of the same names in it are replaced, each at once or not at all.

        Raises:
            WriteError: The files could not be written.
        """
        from xlm.checkpoint.save import save_model

        save_model(self, directory)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.embeddings.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of what is computed with them."""
        return self.transformer.embeddings.norm.weight.dtype

    @property
    def weights(self) -> str:
        """Name of the type that the matrices are kept in: ``"float32"``, or ``"int8"`` after ``for_inference``."""
        return str(self.dtype).removeprefix("torch.")

    def for_inference(self, weights: str | None = None) -> XLMWithLMHeadModel:
        """The same model with its matrices laid out for speed; for the CPU, and for nothing but inference.

        Args:
            weights: Type the matrices are kept in: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``;
                ``None`` means this model's own. ``xlm.model.inference`` says what each costs in accuracy.

        Returns:
            A model that stays on the CPU and in these types, and is not saved. Its word embeddings are in the same
            memory as this one's, all else is copied: later changes to this model do not reach it, or in part.

        Raises:
            InputError: An unknown type, or weights that are not on the CPU.
        """
        from xlm.model.inference import prepare_for_inference

        return prepare_for_inference(self, weights)

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

    @shows_decoding_options
    def generate(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> Tensor:
        """Prompts with their continuations: greedy, sampled, or the best of a beam search.

        A row stops behind ``</s>``, after ``max_new_tokens`` (64 when not given), or when the model has no position
        left: behind a prompt of P tokens there is room for ``max_position_embeddings - P + 1`` new ones. For which of
        these it was, and for log-probabilities, see ``continuations``.

        A prompt is given as the model saw it in training, ``</s>`` and the tokens, *without* the ``</s>`` at the end,
        behind which a new sentence would begin: ``tokenizer.encode(text, lang=...)[:-1]``.

        Args:
            input_ids: (B, T) int64, ids from 0 to V - 1.
            langs: Language of the prompts, as for ``forward``.
            lengths: (B,) int64, real tokens of each prompt. Without it and ``attention_mask``, ``<pad>`` is padding;
                padding stands on the right.
            attention_mask: (B, T), 0 at padding; instead of ``lengths``.
            continuation_langs: Language of the new tokens: a name or id for all, one a row, or (B, max_new_tokens),
                one for each new token. By default that of each prompt's last token. The first new token is predicted
                from the prompt alone; its own language counts when the second is.
            **options: Attributes of ``DecodingOptions``, by name; it says what each does, and in what it differs from
                the ``transformers`` option of the same name.

        Returns:
            (B * num_return_sequences, T') int64, padded on the right with ``<pad>``; the continuations of prompt i
            begin at row ``i * num_return_sequences``, best first when they are beams.

        Raises:
            InputError: An input or option that is wrong, or a bidirectional model.
            LanguageError: A language that the model does not have.
            XLMError: The model's scores are not finite.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        continuations = continue_prompts(self, prompts, chosen, with_logprobs=False)
        return with_prompts(prompts, continuations, pad_id=self.config.pad_token_id)

    @shows_decoding_options
    def continuations(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> list[Continuation]:
        """The new tokens alone, with their log-probabilities and why each row stopped; arguments as ``generate``'s.

        Returns:
            B * num_return_sequences of them, in the order of ``generate``'s rows.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        return continue_prompts(self, prompts, chosen)

    @shows_decoding_options
    def stream(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> TokenStream:
        """The new tokens of one prompt as an iterator of ids, each computed when asked for; not for beam search.

        Args as ``generate``'s, with B = 1. After the last token the iterator's ``continuation`` tells the rest.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        return TokenStream(self, prompts, chosen)

    def _prompts(
        self,
        input_ids: Tensor,
        langs: Languages | None,
        lengths: Tensor | None,
        attention_mask: Tensor | None,
        continuation_langs: Languages | None,
        options: DecodingKeywords,
    ) -> tuple[Prompts, DecodingOptions]:
        chosen = DecodingOptions.checked(self.config, **options)
        if langs is None:
            self._warn_about_langs(stacklevel=4)
        prompts = prepare_prompts(
            self,
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            continuation_langs=continuation_langs,
            options=chosen,
        )
        return prompts, chosen

    def _states(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None,
        lengths: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: XLMCache | None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TransformerOutput:
        if langs is None:
            self._warn_about_langs(stacklevel=6)  # past this, _states, forward, the two frames of nn.Module.__call__
        inputs = prepare_inputs(
            self.config,
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
        )
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
