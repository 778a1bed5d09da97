"""The models: ``XLMModel``, the network without its head, and ``XLMWithLMHeadModel``, the language model.

Shapes: B batch, T positions, S positions including those of the cache, N heads, D model width, V vocabulary.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args, overload

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_choice, check_count, check_flags, check_share, shown
from xlm.errors import ConfigError, InputError, XLMWarning
from xlm.model.attention import Source
from xlm.model.cache import XLMCache
from xlm.model.config import AttnImplementation, XLMConfig, check_config
from xlm.model.decoding.beam_search import beam_search
from xlm.model.decoding.options import DecodingOptions, lists_decoding_options
from xlm.model.decoding.prompts import Prompts, prepare_prompts, with_prompts
from xlm.model.decoding.result import Continuation
from xlm.model.decoding.sampling import collect, generate_tokens
from xlm.model.decoding.state import CausalState
from xlm.model.decoding.streaming import TokenStream, check_streamable
from xlm.model.growing import add_languages, resize_positions, resize_words
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead
from xlm.model.initialisation import reset_modules
from xlm.model.inputs import (
    Languages,
    check_placement,
    check_shape,
    check_tensor,
    check_whole,
    looks_at_values,
    onto,
    prepare_inputs,
)
from xlm.model.loss import (
    Reduction,
    chunked_losses,
    counted_labels,
    head_loss,
    is_plain_head,
    logits_loss,
    reduce_losses,
)
from xlm.model.outputs import XLMModelOutput, XLMOutput
from xlm.model.transformer import Transformer, TransformerInputs, TransformerOutput

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from xlm.model.inputs import InputKeywords


_P = ParamSpec("_P")
_R = TypeVar("_R")

CALLER_OF_FORWARD = 6
"""``stacklevel`` of a warning about the code that called a model: above ``_run``, ``forward`` and two frames of
torch."""


def takes_arguments_of(source: Callable[_P, object]) -> Callable[[Callable[..., _R]], Callable[_P, _R]]:
    """Return a decorator that gives a method the signature of another method, for type checkers and ``inspect``."""

    def decorate(method: Callable[..., _R]) -> Callable[_P, _R]:
        own = inspect.signature(method)
        signature = inspect.signature(source).replace(return_annotation=own.return_annotation)
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method

    return decorate


def without_none(**values: Any) -> dict[str, Any]:
    """Return the arguments that are not ``None``."""
    return {name: value for name, value in values.items() if value is not None}


class XLMModel(nn.Module):
    """The network without a head: token ids to hidden states.

    Attributes:
        config: The architecture; only ``resize_token_embeddings``, ``resize_position_embeddings`` and ``add_languages``
            change it.
        check_inputs: Whether to check the *values* of inputs: ids, languages, positions, lengths, masks and labels. On
            a GPU, this check waits for earlier work. Set it to ``False`` in loops whose inputs are known to be valid;
            results are then the same up to the order of sums. Types and shapes are always checked. Without the check,
            slower kernels are used unless ``lengths`` is given, because it is unknown on which side the padding is.

    Args:
        config: The architecture. Weights are initialised as in the original: embeddings from a normal distribution
            with standard deviation ``emb_dim ** -0.5``, linear layers by torch's default.

    Source: paper section 3; the original's ``TransformerModel``.
    """

    check_inputs: bool = True

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        check_config(config, where=type(self).__name__)
        self.config = config
        self._warned_about_langs = False
        # The contents of the model's file other than weights and architecture; save_pretrained writes them back.
        self.provenance: object = None
        self._build()
        if self.device.type != "meta":
            self._draw_weights()

    def _build(self) -> None:
        self.transformer = Transformer(self.config)

    def _draw_weights(self) -> None:
        """Draw the weights that the constructors of the modules have not drawn."""
        self.transformer.embeddings.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, as the constructor does.

        A model that was built on the meta device gets its weights by ``to_empty(device=...)`` and this method. Every
        module of the model has the method too, for the weights inside it.
        """
        reset_modules(self.children())

    def __setattr__(self, name: str, value: Any) -> None:
        # Each layer copied values from the configuration when it was built, so a new configuration would apply only in
        # part.
        if name == "config" and value is not self.__dict__.get("config", value):
            raise ConfigError(
                "a model's configuration cannot be replaced",
                where="model.config",
                found="an assignment",
                expected="the configuration that the model was built from",
                remedy="from_pretrained takes causal=, dropout= and attention_dropout=; or build a new model: "
                f"{type(self).__name__}(model.config.replace(...)), then load_state_dict",
            )
        if name == "check_inputs":
            check_flags(check_inputs=value)
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        causal: bool | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        attn_implementation: AttnImplementation | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Return a model with the weights of a file, in evaluation mode.

        ``XLMModel`` opens the same files as ``XLMWithLMHeadModel``, and ignores the head. It also opens directories of
        ``XLMModel`` and of models with other heads, such as ``XLMForSequenceClassification`` of ``transformers``, and
        of FlauBERT where its network is this one; a warning names the parts that are left out. A subclass is created by
        ``cls(config)``. Weights that a subclass adds are not in the file: they keep the values from its ``__init__``,
        and a warning names them.

        Args:
            name_or_path: A directory in the ``transformers`` layout, a checkpoint of the original (``.pth``), the name
                of a model that comes with the package (``"xlm-clm-ende-small"``), or an id on the Hugging Face hub,
                optionally with ``@revision``; looked up in that order.
            dtype: Type of the weights; ``None`` means float32, and ``"auto"`` the type in the file.
            device: Device of the weights; ``None`` means the CPU.
            causal: Whether attention is causal. ``None`` means causal, unless the file is known to hold a
                bidirectional model. The ``causal: false`` of the published configurations is ignored, with a warning.
            dropout: Probability of dropping an activation in training, from 0 to below 1; ``None`` means the value in
                the file.
            attention_dropout: Probability of dropping an attention weight in training; values as for ``dropout``.
            attn_implementation: ``"sdpa"`` for torch's fused kernels, the default, or ``"eager"`` for plain operations,
                which can be differentiated twice and in forward mode.
            revision: Branch, tag or commit of a model on the hub; ``None`` means ``main``.
            cache_dir: Folder for downloaded files; ``None`` means the hub's usual cache (``HF_HUB_CACHE``,
                ``HF_HOME``).
            local_files_only: Whether to use only cached files, as ``HF_HUB_OFFLINE=1`` does.
            token: Token for a private model; ``None`` means ``HF_TOKEN`` or the token stored by ``hf auth login``.

        Raises:
            CheckpointError: The files are not an XLM model. No code in a file is ever executed.
            HubError: The model could not be downloaded from the hub; a subclass of ``CheckpointError``.
            ConfigError: The type or a probability is invalid, or a subclass cannot be created by ``cls(config)``.
            InputError: The device does not exist, or ``name_or_path`` is not a name.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.load import load_model

        hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        return load_model(
            name_or_path,
            kind=cls,
            dtype=dtype,
            device=device,
            causal=causal,
            changes=without_none(
                dropout=dropout, attention_dropout=attention_dropout, attn_implementation=attn_implementation
            ),
            hub=hub,
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of the word embeddings, (V, D)."""
        return self.transformer.embeddings.word

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Change the number of words, for example after ``tokenizer.add_tokens``.

        New words follow the others. Make the optimiser afterwards: one that exists holds the parameters from before.

        Args:
            new_num_tokens: Number of words V, special tokens included; the last words are removed if it is smaller.
                ``None`` means as many as now.
            pad_to_multiple_of: The number is rounded up to a multiple of this number.
            mean_resizing: Whether new words get the mean of all embeddings. Otherwise, they are drawn as in a new
                model. A head with a weight of its own is treated alike, and its new biases are the mean bias or 0. In a
                tied head, new biases are 0.

        Returns:
            The table of the word embeddings.

        Raises:
            ConfigError: The head is an adaptive softmax or has been replaced, the tables are sharded or packed, or a
                special token would be removed.
            InputError: A number is not a count.

        Source: ``PreTrainedModel.resize_token_embeddings`` of ``transformers``, which adds a little noise to the mean.
        """
        resize_words([self], new_num_tokens, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=mean_resizing)
        return self.get_input_embeddings()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Change the length of the longest input.

        New learned positions are drawn as in a new model, so they must be trained; fixed ones are computed. The
        tokenizer has its own limit, ``model_max_length``. Make the optimiser afterwards.

        Args:
            new_num_position_embeddings: Number of positions; the last ones are removed if it is smaller.

        Raises:
            ConfigError: The table is sharded or packed.
            InputError: The number is not a count.
        """
        resize_positions([self], new_num_position_embeddings)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether ``activation_checkpointing_enable`` is in force."""
        return self.transformer.recomputed > 0

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Train with less memory: layers keep only their input, and the backward pass computes them again.

        The option ``activation_checkpointing`` of the ``Trainer`` of ``transformers`` calls this method.

        Args:
            activation_checkpointing_kwargs: Nothing, or ``{"use_reentrant": False}``: torch's other way is not offered.
            every_n_layers: Every how many layers one is computed again.
            offload: Not offered.

        Raises:
            InputError: The number is not a count, or an option is not offered.

        Source: ``PreTrainedModel.activation_checkpointing_enable`` of ``transformers``.
        """
        check_count(every_n_layers=every_n_layers)
        options = {} if activation_checkpointing_kwargs is None else activation_checkpointing_kwargs
        is_plain = isinstance(options, Mapping) and all(
            name == "use_reentrant" and value is False for name, value in options.items()
        )
        if not is_plain or offload is not False:
            raise InputError(
                "no such option of activation checkpointing",
                where="activation_checkpointing_kwargs, offload",
                found=f"{shown(options)}, {shown(offload)}",
                expected="{'use_reentrant': False} or nothing, and False",
            )
        self.transformer.recomputed = every_n_layers

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Call ``activation_checkpointing_enable``; older versions of ``transformers`` use this name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def activation_checkpointing_disable(self) -> None:
        """Undo ``activation_checkpointing_enable``."""
        self.transformer.recomputed = 0

    def add_languages(self, names: str | Sequence[str], *, like: str | None = None) -> dict[str, int]:
        """Add languages, and return their ids, which follow those of the others.

        ``tokenizer.add_languages`` does the same for a tokenizer. A model with one language has no language embeddings:
        it gets a table of zeros, which changes no result until it is trained. Make the optimiser afterwards.

        Args:
            names: Names of the new languages.
            like: Language whose embedding the new ones start from; ``None`` means the mean of all languages.

        Raises:
            LanguageError: The model has the language already, lacks ``like``, or does not know the names of its
                languages.
            ConfigError: The table is sharded or packed.
            InputError: ``names`` are not names.
        """
        return add_languages([self], names, like=like)

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` in the ``transformers`` layout of the same class.

        If FSDP2 has sharded the model, all processes must call this method. The first one writes.

        Args:
            directory: Directory to write to, created if missing. Existing files of these names are replaced, each
                atomically.

        Raises:
            WriteError: The files could not be written, or ``from_pretrained`` would refuse them. If it would refuse
                them, nothing is written, and the message names every tensor and module at fault.
        """
        from xlm.checkpoint.save import save_model

        save_model(self, directory)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.transformer.embeddings.word.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the computation."""
        return self.transformer.embeddings.norm.weight.dtype

    def new_cache(self, batch_size: int, *, capacity: int | None = None) -> XLMCache:
        """Return an empty cache of this model's type, on its device.

        Args:
            batch_size: Number of rows B.
            capacity: Maximum number of tokens in a row; ``None`` means the model's longest input.
        """
        return XLMCache(self.config, batch_size, capacity=capacity, dtype=self.dtype, device=self.device)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: XLMCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool | None = None,
    ) -> XLMModelOutput:
        """Return the hidden states of all positions; arguments as for ``XLMWithLMHeadModel.forward``."""
        _, states = self._run(
            input_ids,
            inputs_embeds=inputs_embeds,
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
        return XLMModelOutput(
            last_hidden_state=states.hidden,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
            cache=cache,
        )

    if TYPE_CHECKING:

        @overload
        @takes_arguments_of(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> XLMModelOutput: ...
        @overload
        def __call__(self, **batch: Any) -> XLMModelOutput: ...
        def __call__(self, *args: Any, **kwargs: Any) -> XLMModelOutput:
            """Call ``forward`` and the hooks of the module. A batch that is a dict of tensors fits too."""

    def _run(
        self,
        input_ids: Tensor | None,
        *,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        cache: XLMCache | None = None,
        source: Source | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool | None = None,
        stacklevel: int,
        **keywords: Unpack[InputKeywords],
    ) -> tuple[TransformerInputs, TransformerOutput]:
        """Check all arguments of a forward pass, and return the inputs and the output of the transformer."""
        flags = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        # As in transformers, None means the default.
        check_flags(**{name: flag for name, flag in flags.items() if flag is not None})
        if return_dict is not None and return_dict is not True:
            raise InputError(
                "the output is always an object",
                where="return_dict",
                found=shown(return_dict),
                expected="None or True",
                remedy="leave it out; output.to_tuple() is the tuple",
            )
        if keywords["langs"] is None:
            self._warn_about_langs(stacklevel=stacklevel)
        inputs = prepare_inputs(
            self.config,
            input_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            check_values=self.check_inputs,
            **keywords,
        )
        check_placement(inputs, self.device, self.dtype)
        if labels is not None:
            check_shape("labels", labels, inputs.shape)
            check_whole("labels", labels)
        return inputs, self.transformer(inputs, cache=cache, source=source, **flags)

    def _warn_about_langs(self, *, stacklevel: int, argument: str = "langs") -> None:
        if not self.config.has_language_embeddings or self._warned_about_langs or torch.compiler.is_dynamo_compiling():
            return
        self._warned_about_langs = True
        names = ", ".join(sorted(self.config.lang2id)) or f"ids 0 to {self.config.n_langs - 1}"
        warnings.warn(
            f"this model has language embeddings ({names}) and was called without {argument}: no language embedding "
            f"is added, unlike in training, and predictions are much worse; pass {argument}=",
            XLMWarning,
            stacklevel=stacklevel,
        )


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
            model's word embeddings. Everything else is copied, so call ``for_inference`` again after changes to this
            model.

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

    def _continue(self, prompts: Prompts, options: DecodingOptions, *, with_logprobs: bool) -> list[Continuation]:
        n = options.num_return_sequences
        with eval_mode(self), torch.inference_mode():
            state = self._decoder_state(prompts, options)
            if options.num_beams > 1:
                return [best for beams in beam_search(state, prompts, options) for best in beams[:n]]
            seeds = options.row_seeds(len(prompts.lengths) * n) if options.do_sample else ()
            steps = generate_tokens(state, prompts, options, seeds=seeds, with_logprobs=with_logprobs)
            return collect((token for step in steps for token in step), n, seeds)

    def _decoder_state(self, prompts: Prompts, options: DecodingOptions) -> CausalState:
        return CausalState(self, rows=len(prompts.lengths), capacity=prompts.capacity, cuda_graphs=options.cuda_graphs)


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
