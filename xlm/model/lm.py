"""``XLMWithLMHeadModel``: the language model, the network of ``network.py`` with a head.

Shapes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, overload

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_choice, check_flags, check_share
from xlm.errors import InputError
from xlm.model.attention import Source
from xlm.model.cache import XLMCache
from xlm.model.decoding.beam_search import PromptBeams, beam_search
from xlm.model.decoding.options import DecodingOptions, lists_decoding_options
from xlm.model.decoding.prompts import Prompts, prepare_prompts, with_prompts
from xlm.model.decoding.result import Continuation
from xlm.model.decoding.sampling import collect, generate_tokens
from xlm.model.decoding.state import CausalState
from xlm.model.decoding.streaming import TokenStream, check_streamable
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead
from xlm.model.inputs import Languages, check_placement, check_tensor, looks_at_values, onto
from xlm.model.loss import (
    Reduction,
    chunked_losses,
    counted_labels,
    head_loss,
    is_plain_head,
    logits_loss,
    reduce_losses,
)
from xlm.model.network import CALLER_OF_FORWARD, XLMModel, takes_arguments_of
from xlm.model.outputs import XLMOutput


class XLMWithLMHeadModel(XLMModel):
    """A language model: the network with a head that scores the next token.

    ``generate`` and scoring call the transformer and ``logits``, not ``forward``. They refuse a model whose ``forward``
    is overridden or has hooks. To change what they compute, replace ``head`` (by any module), override ``logits``, or
    put hooks on the transformer or the head.

    Attributes:
        config: As for ``XLMModel``.
        check_inputs: As for ``XLMModel``.
        transformer: Embeddings and layers.
        head: Any module that maps hidden states (…, D) to logits.

    Args:
        config: The architecture.

    Source: paper section 3; the original's ``TransformerModel`` with ``PredLayer``.
    """

    head: LinearHead | AdaptiveHead
    # The wrapper of peft for task_type="CAUSAL_LM" copies these, and does not use them.
    generation_config: None = None
    prepare_inputs_for_generation: None = None

    def _build(self) -> None:
        super()._build()
        self.head = AdaptiveHead(self.config) if self.config.asm else LinearHead(self.config)

    def _draw_weights(self) -> None:
        super()._draw_weights()
        if isinstance(self.head, LinearHead):
            self.head.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        head = self._modules.get("head")
        if name in ("transformer", "head") and isinstance(head, LinearHead):
            head.tie_to(self.transformer)

    @property
    def weights(self) -> str:
        """Type of the matrices by name, such as ``"float32"``, or ``"int8"`` after ``for_inference``."""
        return str(self.dtype).removeprefix("torch.")

    def for_inference(self, weights: str | None = None) -> XLMWithLMHeadModel:
        """Return a packed copy of the model: faster on the CPU, and for inference only.

        Only plain layers can be packed. Adapters, hooks, foreign layers or heads, and classes that override a method
        are refused. A subclass that only adds methods is accepted, but the result does not have these methods.

        Args:
            weights: Type of the matrices: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``; ``None`` means
                the type of this model. ``xlm.inference.packed_model`` describes the loss of accuracy with each type.

        Returns:
            A model that cannot be trained, moved, converted or saved. The packed model shares the memory of this
            model's word embeddings, and copies everything else. Call ``for_inference`` again after changes to this
            model: the packed model refuses to run once the word embeddings have changed.

        Raises:
            InputError: The type is unknown, the model is not on the CPU, or some layers are not plain.
        """
        from xlm.inference.packed_model import prepare_for_inference

        return prepare_for_inference(self, weights)

    def forward(  # type: ignore[override]  # another return type than in XLMModel, as in transformers
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        reduction: Reduction = "mean",
        smoothing: float = 0.0,
        allow_empty: bool = False,
        return_logits: bool = True,
        cache: XLMCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool | None = None,
    ) -> XLMOutput:
        """Return the scores of the next token at every position.

        Args:
            input_ids: (B, T) int64 ids from 0 to V - 1.
            inputs_embeds: (B, T, D) word embeddings in place of ``input_ids``; positions and languages are added to
                them. Without ``lengths`` and ``attention_mask``, all are tokens.
            langs: Language of the tokens: one name or id for all rows, one for each row, or (B, T) int64 ids. Without
                ``langs``, a multilingual model adds no language embedding, unlike in training, and warns once.
            lengths: (B,) int64 number of real tokens in each row; the rest is padding.
            attention_mask: (B, T), 1 or true at tokens and 0 or false at padding, which may be on any side. Pass
                ``attention_mask`` or ``lengths``, not both; without either, ``<pad>`` tokens are padding.
            position_ids: (B, T) int64 positions below ``max_position_embeddings``. By default they count from 0 at each
                row's first token, or continue after the cache. Padding is not counted, so it does not change the
                results of a row's tokens.
            labels: (B, T) int64, usually the same as ``input_ids``. In a causal model, position t predicts label t + 1;
                in a bidirectional model, position t predicts label t. Labels of -100, labels at padding, and
                predictions made at padding are ignored.
            reduction: ``"mean"`` or ``"sum"`` of the losses of the labels that count, or ``"none"``: (B, T) losses,
                each at the position that predicts the label, and 0 at positions that predict none.
            smoothing: Share of the target distribution that is spread evenly over all words, from 0 to 1.
            allow_empty: Whether the loss is 0, with a gradient of 0, if no label counts. Otherwise such a batch
                is refused.
            return_logits: Whether to return the logits. Without them, the loss needs much less memory, because only a
                chunk of the logits exists at a time.
            cache: Keys and values of earlier tokens; those of ``input_ids`` are appended. Requires ``torch.no_grad()``
                and padding on the right.
            output_hidden_states: Whether to return the embeddings and every layer's output.
            output_attentions: Whether to return the attention weights.
            return_dict: ``None`` or true, for libraries that pass it to models of ``transformers``.

        Raises:
            InputError: An input has a wrong shape, type or value.
            LanguageError: A language that the model does not have.
        """
        inputs, states = self._run(
            input_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            cache=cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=return_dict,
            stacklevel=CALLER_OF_FORWARD,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        loss, logits_BTV = self._loss_and_logits(
            states.hidden,
            inputs.valid,
            labels,
            reduction=reduction,
            smoothing=smoothing,
            allow_empty=allow_empty,
            return_logits=return_logits,
        )
        return XLMOutput(
            loss=loss,
            logits=logits_BTV,  # type: ignore[arg-type]  # None if the caller asks for no logits
            hidden_states=states.hidden_states,
            attentions=states.attentions,
            cache=cache,
        )

    if TYPE_CHECKING:

        @overload  # type: ignore[override]  # as forward
        @takes_arguments_of(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> XLMOutput: ...
        @overload
        def __call__(self, **batch: Any) -> XLMOutput: ...
        def __call__(self, *args: Any, **kwargs: Any) -> XLMOutput:
            """Call ``forward`` and the hooks of the module. A batch that is a dict of tensors fits too."""

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
        """Return the output of the last layer, for callers that need only some logits; arguments as for ``forward``.

        Returns:
            (B, T, D) in the model's type; ``logits`` maps its rows to the logits of ``forward``.
        """
        _, states = self._run(
            input_ids,
            cache=cache,
            stacklevel=4,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            position_ids=position_ids,
        )
        return states.hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the output of the head: scores of the next token, or log-probabilities for an adaptive softmax.

        Args:
            hidden: (…, D) hidden states.

        Returns:
            (…, V).
        """
        what, D = "holds no hidden states", self.config.emb_dim
        expected = f"a floating-point tensor of shape (…, {D})"
        check_tensor("hidden", hidden, what, expected=expected)
        if not hidden.is_floating_point() or hidden.shape[-1:] != (D,):
            found = f"{hidden.dtype} of shape {tuple(hidden.shape)}"
            raise InputError(f"hidden {what}", where="hidden", found=found, expected=expected)
        scores: Tensor = self.head(hidden)
        return scores

    def _loss_and_logits(
        self,
        hidden_BTD: Tensor,
        valid_BT: Tensor | None,
        labels_BT: Tensor | None,
        *,
        reduction: Reduction,
        smoothing: float,
        allow_empty: bool,
        return_logits: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the loss and the logits, each if requested; ``forward`` describes the arguments."""
        check_flags(return_logits=return_logits)
        logits_BTV = self.logits(hidden_BTD) if return_logits else None
        if labels_BT is None:
            return None, logits_BTV
        check_flags(allow_empty=allow_empty)
        check_choice("reduction", get_args(Reduction), reduction=reduction)
        check_share(smoothing=smoothing)
        labels_BT = onto("labels", labels_BT, hidden_BTD.device).long()
        labels_BT = counted_labels(labels_BT, valid_BT, causal=self.config.causal)
        looks = looks_at_values(labels_BT, self.check_inputs)
        if looks:
            words = len(self.transformer.embeddings.word.weight) if logits_BTV is None else logits_BTV.shape[-1]
            self._check_labels(labels_BT, words, allow_empty=allow_empty)
        if logits_BTV is None:
            losses = self._chunked_losses(hidden_BTD, labels_BT, reduction, smoothing, selects=looks)
        else:
            losses = logits_loss(logits_BTV, labels_BT, smoothing=smoothing)
        return reduce_losses(losses, labels_BT, reduction, allow_empty=allow_empty), logits_BTV

    def _chunked_losses(
        self, hidden_BTD: Tensor, labels_BT: Tensor, reduction: Reduction, smoothing: float, *, selects: bool
    ) -> Tensor:
        """Return the losses (B, T) of the positions, or their sum, without the logits of all positions.

        ``selects`` is whether to compute only the positions that count, for which a GPU must be waited for.
        """
        head, words = self.head, len(self.transformer.embeddings.word.weight)
        hidden_ND, labels_N = hidden_BTD.flatten(0, 1), labels_BT.flatten()
        if reduction != "none" and selects:
            counted_N = labels_N != IGNORED_LABEL
            hidden_ND, labels_N = hidden_ND[counted_N], labels_N[counted_N]
        is_plain = is_plain_head(head) and type(self).logits is XLMWithLMHeadModel.logits and "logits" not in vars(self)
        # An adaptive softmax takes no labels of -100; torch.compile and torch.func cannot trace the function of a
        # linear head.
        is_simple = looks_at_values(labels_BT, True) and (isinstance(head, LinearHead) or (selects and not smoothing))
        if reduction != "none" and is_plain and is_simple:
            return head_loss(head, hidden_ND, labels_N, reduction="sum", smoothing=smoothing)
        losses_N = chunked_losses(self.logits, hidden_ND, labels_N, vocab_size=words, smoothing=smoothing)
        return losses_N.view(labels_BT.shape) if reduction == "none" else losses_N.sum()

    def _check_labels(self, labels_BT: Tensor, vocab_size: int, *, allow_empty: bool) -> None:
        counted_BT = labels_BT != IGNORED_LABEL
        wrong_BT = counted_BT & ((labels_BT < 0) | (labels_BT >= vocab_size))
        counted, wrong = torch.stack([counted_BT.sum(), wrong_BT.sum()]).tolist()
        if wrong or not (counted or allow_empty):
            raise InputError(
                "invalid labels",
                where="labels",
                found=f"{counted} labels that are not ignored, {wrong} of them out of range",
                expected=f"at least one label that is not ignored, each from 0 to {vocab_size - 1} or {IGNORED_LABEL}",
                remedy=None if counted else "allow_empty=True makes the loss of such a batch 0",
            )

    @lists_decoding_options
    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        options: DecodingOptions | None = None,
        **changes: Any,
    ) -> Tensor:
        """Return prompts with their continuations: greedy, sampled, or the best of a beam search.

        A row ends with ``</s>``, after ``max_new_tokens`` (64 by default), or when the model has no position left: a
        prompt of P tokens leaves room for ``max_position_embeddings - P + 1`` new ones. ``continuations`` also returns
        why each row ended, and log-probabilities.

        A prompt begins with ``</s>``, as in training, and must not end with ``</s>``, because a new sentence begins
        after it. Use ``tokenizer.encode(text, lang=...)[:-1]``.

        Args:
            input_ids: (B, T) int64 ids from 0 to V - 1.
            inputs_embeds: (B, T, D) word embeddings in place of ``input_ids``, such as soft prompts. Then only the new
                tokens are returned, and only they count as repeated.
            langs: Language of the prompts, as for ``forward``.
            lengths: (B,) int64 number of real tokens in each prompt. Without ``lengths`` and ``attention_mask``,
                ``<pad>`` tokens are padding. Padding must be on the right.
            attention_mask: (B, T), 1 at tokens and 0 at padding; may be passed instead of ``lengths``.
            continuation_langs: Language of the new tokens: one name or id for all rows, one for each row, or ids
                (B, max_new_tokens), one for each new token. The default is the language of each prompt's last token. A
                token's language affects only the tokens after it.
            options: Options of decoding; ``None`` means the defaults.
            **changes: Options by name, which take precedence over ``options``. ``DecodingOptions`` describes them, and
                their differences from ``transformers``.

        Returns:
            (B * num_return_sequences, T') int64, padded on the right with ``<pad>``. The continuations of prompt i
            begin at row ``i * num_return_sequences``, best first for beam search.

        Raises:
            InputError: An input or option is invalid, or the model is bidirectional.
            LanguageError: A language that the model does not have.
            XLMError: The model's scores are not finite.
        """
        prompts, options = self._prompts(
            input_ids,
            inputs_embeds=inputs_embeds,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            continuation_langs=continuation_langs,
            options=options,
            **changes,
        )
        continuations = self._continue(prompts, options, with_logprobs=False)
        return with_prompts(prompts, continuations, pad_id=self.config.pad_token_id)

    @takes_arguments_of(generate)
    def continuations(self, input_ids: Tensor | None = None, **arguments: Any) -> list[Continuation]:
        """Return only the new tokens, with their log-probabilities and the reason each row ended.

        The arguments are those of ``generate``.

        Returns:
            B * num_return_sequences continuations, in the same order as the rows that ``generate`` returns.
        """
        return self._continue(*self._prompts(input_ids, **arguments), with_logprobs=True)

    @takes_arguments_of(generate)
    def stream(self, input_ids: Tensor | None = None, **arguments: Any) -> TokenStream:
        """Return an iterator that computes the new tokens of one prompt on demand. Beam search cannot be streamed.

        Arguments as for ``generate``, with B = 1.

        Returns:
            An iterator of ids. After the last token, its attribute ``continuation`` holds all results.
        """
        prompts, options = self._prompts(input_ids, **arguments)
        check_streamable(prompts, options)
        with torch.inference_mode():
            state = self._decoder_state(prompts, options)
        return TokenStream(state, prompts, options, eval_mode=partial(eval_mode, self))

    def _prompts(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        langs: Languages | None = None,
        options: DecodingOptions | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **changes: Any,
    ) -> tuple[Prompts, DecodingOptions]:
        """Return checked prompts and options; arguments as for ``generate``."""
        check_forward(self, "generate")
        checked = DecodingOptions.checked(self.config, options, **changes)
        if langs is None:
            self._warn_about_langs(stacklevel=4)
        prompts = prepare_prompts(
            self.config,
            self.device,
            input_ids,
            inputs_embeds=inputs_embeds,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            continuation_langs=continuation_langs,
            options=checked,
        )
        check_placement(prompts.inputs, self.device, self.dtype)
        return prompts, checked

    def _continue(
        self,
        prompts: Prompts,
        options: DecodingOptions,
        *,
        with_logprobs: bool,
        source: Source | None = None,
        rules: type[PromptBeams] = PromptBeams,
    ) -> list[Continuation]:
        n = options.num_return_sequences
        with eval_mode(self), torch.inference_mode():
            state = self._decoder_state(prompts, options, source)
            if options.num_beams > 1:
                return [best for beams in beam_search(state, prompts, options, rules=rules) for best in beams[:n]]
            seeds = options.row_seeds(len(prompts.lengths) * n) if options.do_sample else ()
            steps = generate_tokens(state, prompts, options, seeds=seeds, with_logprobs=with_logprobs)
            return collect((token for step in steps for token in step), n, seeds)

    def _decoder_state(self, prompts: Prompts, options: DecodingOptions, source: Source | None = None) -> CausalState:
        rows, capacity = len(prompts.lengths), prompts.capacity
        return CausalState(self, rows=rows, capacity=capacity, source=source, cuda_graphs=options.cuda_graphs)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Turn dropout off inside the block; afterwards restore the mode (training or evaluation) of each module."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_forward(model: nn.Module, caller: str, *, kind: type[nn.Module] = XLMWithLMHeadModel) -> None:
    """Refuse a model with a custom ``forward``, for callers that use its parts without calling ``forward``.

    Args:
        model: The model.
        caller: Name of the caller, for the message.
        kind: Class of this library whose ``forward`` the model must have.

    Raises:
        InputError: ``forward`` is overridden or has hooks, whose effect would be lost.
    """
    problems = []
    if type(model).forward is not kind.forward:
        problems.append(f"{type(model).__name__}.forward")
    # accelerate replaces model.forward to move weights to the device. Nothing is lost if that is not called, because
    # accelerate's hooks on the parts of the model move them too.
    if "forward" in vars(model) and not hasattr(model, "_hf_hook"):
        problems.append("model.forward = ...")
    if model._forward_pre_hooks or model._forward_hooks:
        problems.append("forward hooks on the model")
    if problems:
        raise InputError(
            f"{caller} would bypass the model's custom forward or hooks",
            where=caller,
            found=", ".join(problems),
            expected=f"forward of {kind.__name__}, without hooks",
            remedy="override logits, replace model.head, or put the hooks on model.transformer or model.head",
        )
