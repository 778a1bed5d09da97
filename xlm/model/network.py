"""``XLMModel``: the network without a head.

Shapes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_count, check_flags, shown
from xlm.errors import ConfigError, InputError, XLMWarning
from xlm.model.attention import Source
from xlm.model.cache import XLMCache
from xlm.model.config import AttnImplementation, XLMConfig, check_config
from xlm.model.growing import add_languages, resize_positions, resize_words
from xlm.model.initialisation import reset_modules
from xlm.model.inputs import Languages, check_placement, check_shape, check_whole, prepare_inputs
from xlm.model.outputs import XLMModelOutput
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
