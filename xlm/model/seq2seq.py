"""``XLMEncoderDecoderModel``: an encoder and a decoder that attends to it, for translation.

Shapes: B batch, S source positions, T target positions, N heads, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from xlm._io.arguments import check_choice
from xlm.errors import InputError, LanguageError
from xlm.model.attention import Source
from xlm.model.config import AttnImplementation, XLMConfig, check_config
from xlm.model.decoding.beam_search import OriginalBeams, TranslationBeams, cut_like_the_original
from xlm.model.decoding.options import DecodingOptions, lists_decoding_options
from xlm.model.decoding.prompts import Prompts, check_device_can_decode, with_prompts
from xlm.model.decoding.result import Continuation, Limit
from xlm.model.growing import add_languages, resize_positions, resize_words
from xlm.model.initialisation import ResettableModule
from xlm.model.inputs import Languages, language_ids
from xlm.model.lm import XLMWithLMHeadModel, check_forward, eval_mode
from xlm.model.loss import Reduction
from xlm.model.network import CALLER_OF_FORWARD, takes_arguments_of, without_none
from xlm.model.outputs import Output
from xlm.model.pytrees import register_pytree
from xlm.model.transformer import Transformer, TransformerInputs

if TYPE_CHECKING:
    from typing_extensions import Self

AtLimit = Literal["keep", "original"]
"""How a translation that reaches its limit ends: its last token is kept, or ``</s>`` replaces it."""


@register_pytree
@dataclass(frozen=True, kw_only=True, slots=True)
class XLMEncoderDecoderOutput(Output):
    """Output of ``XLMEncoderDecoderModel``; indexable by name, or as a tuple of the fields that are not ``None``.

    Attributes:
        loss: Mean negative log-probability of the counted labels, in nats; a scalar, when labels were given.
        logits: (B, T, V) scores of the next target token; log-probabilities when the head is an adaptive softmax.
            ``None`` with ``return_logits=False``.
        encoder_hidden_state: (B, S, D) output of the encoder's last layer; zero at padding.
        decoder_hidden_state: (B, T, D) output of the decoder's last layer; zero at padding.
        encoder_hidden_states: The encoder's embeddings and layer outputs, L + 1 tensors (B, S, D), when asked for.
        decoder_hidden_states: The decoder's embeddings and layer outputs, L + 1 tensors (B, T, D), when asked for.
        encoder_attentions: The encoder's attention weights, L tensors (B, N, S, S), when asked for.
        decoder_attentions: The decoder's attention weights to itself, L tensors (B, N, T, T), when asked for.
        cross_attentions: The decoder's attention weights to the source, L tensors (B, N, T, S), when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor = None  # type: ignore[assignment]  # see XLMOutput
    encoder_hidden_state: Tensor
    decoder_hidden_state: Tensor
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class XLMDecoder(XLMWithLMHeadModel):
    """The decoder of an encoder-decoder: a language model whose layers can also attend to a source.

    Called on its own, the decoder has no source: it skips the attention to a source, and is a plain language model.
    """

    def _build(self) -> None:
        super()._build()
        self.transformer = Transformer(self.config, has_source=True)


class XLMEncoderDecoderModel(ResettableModule):
    """An encoder and a decoder that attends to its output, for translation.

    Attributes:
        encoder: A bidirectional model. Translation does not use its head, which is kept because the original's files
            contain it.
        decoder: A causal model whose layers attend to the encoder's output.
        provenance: What the model's file holds besides weights and architecture; ``save_pretrained`` writes it.

    Args:
        config: The architecture of both halves. ``causal`` is ignored: the encoder is bidirectional, the decoder
            causal. Weights are initialised as in the original.

    Source: paper section 4.3; the original's ``build_model`` with ``encoder_only`` false.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        check_config(config, where=type(self).__name__)
        self.encoder = XLMWithLMHeadModel(config.replace(causal=False))
        self.decoder: XLMWithLMHeadModel = XLMDecoder(config.replace(causal=True))
        self.provenance: object = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        attn_implementation: AttnImplementation | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Return a translation model with the weights of a file, in evaluation mode.

        The arguments are those of ``XLMModel.from_pretrained``. ``name_or_path`` is a directory that
        ``save_pretrained`` or ``xlm convert`` wrote, a translation checkpoint of the original (``.pth``), or an id on
        the Hugging Face hub; looked up in that order.

        Raises:
            CheckpointError: The files are not such a model, for example a language model. Nothing in a file is ever
                executed.
            HubError: The model could not be fetched from the hub; a kind of ``CheckpointError``.
            ConfigError: ``dtype`` or a probability is invalid.
            InputError: There is no such device, or ``name_or_path`` is not a name.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.load import load_encoder_decoder

        return load_encoder_decoder(
            name_or_path,
            kind=cls,
            dtype=dtype,
            device=device,
            changes=without_none(
                dropout=dropout, attention_dropout=attention_dropout, attn_implementation=attn_implementation
            ),
            hub=HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token),
        )

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | PathLike[str] | None,
        decoder: str | PathLike[str] | None,
        *,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Return a translation model whose halves start from language models, causal or masked, in evaluation mode.

        Weights are float32. The decoder's attention to the source starts from random weights, because no language model
        has it. A half without a checkpoint starts from random weights too. ``torch.manual_seed`` determines both.

        Args:
            encoder: Name or path of the checkpoint that the encoder starts from, as for ``XLMModel.from_pretrained``.
                From a translation model, the encoder is taken. ``None`` for random weights.
            decoder: The same for the decoder.
            dropout: As for ``from_pretrained``, like all further arguments.
            attention_dropout: Probability of dropping an attention weight in training.
            local_files_only: Whether to use only cached files.
            token: Token for a model that is not public.

        Raises:
            CheckpointError: A file is not such a model, or the two differ in architecture, languages or vocabulary; the
                message names every difference.
            InputError: Both ``encoder`` and ``decoder`` are ``None``.

        Source: the original's ``--reload_model``, which compares neither vocabularies nor languages, numbers of heads,
        activations or kinds of positions.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.load import start_encoder_decoder

        return start_encoder_decoder(
            encoder,
            decoder,
            kind=cls,
            changes=without_none(dropout=dropout, attention_dropout=attention_dropout),
            hub=HubOptions(local_files_only=local_files_only, token=token),
        )

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``.

        The layout is that of a language model, with two differences: tensor names have the prefix ``encoder.`` or
        ``decoder.``, and ``model_type`` has another value, because ``transformers`` has no such model.

        Args:
            directory: As for ``XLMWithLMHeadModel.save_pretrained``.

        Raises:
            WriteError: The files could not be written, or ``from_pretrained`` would refuse them. Nothing is written
                then, and the message names every tensor and module at fault.
        """
        from xlm.checkpoint.save import save_model

        save_model(self, directory)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of the encoder's word embeddings, (V, D)."""
        return self.encoder.get_input_embeddings()

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Change the number of words of both halves; see ``XLMModel.resize_token_embeddings``."""
        resize_words(self._halves, new_num_tokens, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=mean_resizing)
        return self.get_input_embeddings()

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Change the length of the longest input of both halves; see ``XLMModel.resize_position_embeddings``."""
        resize_positions(self._halves, new_num_position_embeddings)

    def add_languages(self, names: str | Sequence[str], *, like: str | None = None) -> dict[str, int]:
        """Add languages to both halves, and return their ids; see ``XLMModel.add_languages``."""
        return add_languages(self._halves, names, like=like)

    @property
    def _halves(self) -> tuple[XLMWithLMHeadModel, XLMWithLMHeadModel]:
        return self.encoder, self.decoder

    @property
    def config(self) -> XLMConfig:
        """The architecture of the decoder. The encoder has the same, except for ``causal``."""
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the computation."""
        return self.decoder.dtype

    @property
    def weights(self) -> str:
        """Type of the matrices by name, such as ``"float32"``, or ``"int8"`` after ``for_inference``."""
        return self.decoder.weights

    def for_inference(self, weights: str | None = None) -> XLMEncoderDecoderModel:
        """Return a packed copy of the model: faster on the CPU, and for inference only.

        Argument, limits and errors are those of ``XLMWithLMHeadModel.for_inference``. The copy shares the memory of
        both halves' word embeddings, and its encoder has no head.
        """
        from xlm.inference.packed_model import prepare_encoder_decoder_for_inference

        return prepare_encoder_decoder_for_inference(self, weights)

    @property
    def check_inputs(self) -> bool:
        """Whether to check the values of inputs, which waits for a GPU; as for ``XLMModel``."""
        return self.decoder.check_inputs

    @check_inputs.setter
    def check_inputs(self, value: bool) -> None:
        self.encoder.check_inputs = self.decoder.check_inputs = value

    def forward(
        self,
        input_ids: Tensor,
        decoder_input_ids: Tensor,
        *,
        langs: Languages | None = None,
        decoder_langs: Languages | None = None,
        lengths: Tensor | None = None,
        decoder_lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        reduction: Reduction = "mean",
        smoothing: float = 0.0,
        allow_empty: bool = False,
        return_logits: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> XLMEncoderDecoderOutput:
        """Return the scores of the next target token at every target position.

        Args:
            input_ids: (B, S) int64 ids of the source sentences, from ``</s>`` to ``</s>``.
            decoder_input_ids: (B, T) int64 ids of the target sentences, from ``</s>`` on.
            langs: Language of the source, in any form that ``XLMWithLMHeadModel.forward`` takes.
            decoder_langs: Language of the target.
            lengths: (B,) int64 number of real source tokens; the rest is padding.
            decoder_lengths: (B,) int64 number of real target tokens.
            attention_mask: (B, S), 1 at source tokens and 0 at padding; instead of ``lengths``. If neither is given,
                ``<pad>`` is padding.
            decoder_attention_mask: (B, T), the same for the target; instead of ``decoder_lengths``.
            labels: (B, T) int64, the same tokens as ``decoder_input_ids``. The model shifts them: position t predicts
                label t + 1. Labels of -100 and labels at padding are ignored.
            reduction: As for ``XLMWithLMHeadModel.forward``, like the next three.
            smoothing: Share of the target distribution that is spread evenly over all words.
            allow_empty: Whether a batch without a label that counts has a loss of 0.
            return_logits: Whether to return the logits.
            output_hidden_states: Whether to return the embeddings and every layer's output of both halves.
            output_attentions: Whether to return the attention weights of both halves.

        Raises:
            InputError: An input has a shape, type or value that the model does not accept.
            LanguageError: The model does not have a language that was given.
        """
        options: dict[str, Any] = {
            "output_hidden_states": output_hidden_states,
            "output_attentions": output_attentions,
            "position_ids": None,
            "stacklevel": CALLER_OF_FORWARD,
        }
        source_inputs, encoded = self.encoder._run(
            input_ids, langs=langs, lengths=lengths, attention_mask=attention_mask, **options
        )
        if isinstance(decoder_input_ids, Tensor) and decoder_input_ids.shape[:1] != input_ids.shape[:1]:
            raise InputError(
                "source and target differ in number of rows",
                where="decoder_input_ids",
                found=f"shape {tuple(decoder_input_ids.shape)}",
                expected=f"{len(input_ids)} rows, as many as input_ids has",
            )
        if decoder_langs is None:
            self.decoder._warn_about_langs(stacklevel=CALLER_OF_FORWARD - 1, argument="decoder_langs")
        with _naming_the_decoder():
            target_inputs, states = self.decoder._run(
                decoder_input_ids,
                labels=labels,
                source=Source(encoded.hidden, source_inputs.valid),
                langs=decoder_langs,
                lengths=decoder_lengths,
                attention_mask=decoder_attention_mask,
                **options,
            )
        loss, logits_BTV = self.decoder._loss_and_logits(
            states.hidden,
            target_inputs.valid,
            labels,
            reduction=reduction,
            smoothing=smoothing,
            allow_empty=allow_empty,
            return_logits=return_logits,
        )
        return XLMEncoderDecoderOutput(
            loss=loss,
            logits=logits_BTV,  # type: ignore[arg-type]  # None if the caller asks for no logits
            encoder_hidden_state=encoded.hidden,
            decoder_hidden_state=states.hidden,
            encoder_hidden_states=encoded.hidden_states,
            decoder_hidden_states=states.hidden_states,
            encoder_attentions=encoded.attentions,
            decoder_attentions=states.attentions,
            cross_attentions=states.cross_attentions,
        )

    if TYPE_CHECKING:

        @overload
        @takes_arguments_of(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> XLMEncoderDecoderOutput: ...
        @overload
        def __call__(self, **batch: Any) -> XLMEncoderDecoderOutput: ...
        def __call__(self, *args: Any, **kwargs: Any) -> XLMEncoderDecoderOutput:
            """Call ``forward`` and the hooks of the module. A batch that is a dict of tensors fits too."""

    @lists_decoding_options
    def generate(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        decoder_langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        max_length: int | None = None,
        at_limit: AtLimit = "keep",
        options: DecodingOptions | None = None,
        **changes: Any,
    ) -> Tensor:
        """Return translations: greedy, sampled, or the best of a beam search.

        A translation ends with ``</s>``, or at its limit. ``continuations`` tells which, and returns log-probabilities
        and scores. Unlike ``XLMWithLMHeadModel.generate``, no token is suppressed by default, as in the original.

        Args:
            input_ids: (B, S) int64 ids of the source sentences, from ``</s>`` to ``</s>``.
            langs: Language of the source, as for ``forward``.
            decoder_langs: Language of the translations: a name or id for all, one for each row, or (B, max_length).
            lengths: (B,) int64 number of real source tokens; the rest is padding.
            attention_mask: (B, S), 0 at padding; instead of ``lengths``.
            max_length: Maximum length of a translation in tokens, including both ``</s>``. By default one and a half
                times the tokens of the row's source, plus 10.
            at_limit: What happens to a translation that has not ended at its limit. ``"keep"`` keeps its last word.
                ``"original"`` follows the original: ``</s>`` replaces the last word, and beam search turns every
                candidate of the last step into a hypothesis in this way.
            options: Options of decoding; the defaults when ``None``. ``max_new_tokens`` is another way to give
                ``max_length - 1``.
            **changes: Options by name, which take precedence.

        Returns:
            (B * num_return_sequences, T) int64, each from the first ``</s>`` to the last, padded on the right with
            ``<pad>``. The translations of row i begin at row ``i * num_return_sequences``, best first.

        Raises:
            InputError: An input or an option is invalid.
            LanguageError: The model does not have a language that was given.
            XLMError: The model's scores are not finite.
        """
        source, prompts, options = self._prompts(
            input_ids,
            langs=langs,
            decoder_langs=decoder_langs,
            lengths=lengths,
            attention_mask=attention_mask,
            max_length=max_length,
            at_limit=at_limit,
            options=options,
            **changes,
        )
        continuations = self._continue(source, prompts, options, at_limit, with_logprobs=False)
        return with_prompts(prompts, continuations, pad_id=self.config.pad_token_id)

    @takes_arguments_of(generate)
    def continuations(self, input_ids: Tensor, *, at_limit: AtLimit = "keep", **arguments: Any) -> list[Continuation]:
        """Return the translations without their first ``</s>``, each with its log-probabilities and why it stopped.

        The arguments are those of ``generate``.

        Returns:
            B * num_return_sequences continuations, in the same order as the rows that ``generate`` returns.
        """
        source, prompts, options = self._prompts(input_ids, at_limit=at_limit, **arguments)
        return self._continue(source, prompts, options, at_limit, with_logprobs=True)

    def _prompts(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        decoder_langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        max_length: int | None = None,
        at_limit: AtLimit = "keep",
        options: DecodingOptions | None = None,
        **changes: Any,
    ) -> tuple[Source, Prompts, DecodingOptions]:
        """Return encoded source, prompts and checked options from the arguments of ``generate``."""
        check_forward(self, "generate", kind=XLMEncoderDecoderModel)
        for half in self._halves:
            check_forward(half, "generate")
        check_choice("at_limit", get_args(AtLimit), at_limit=at_limit)
        with eval_mode(self.encoder), torch.inference_mode():
            inputs, encoded = self.encoder._run(
                input_ids, langs=langs, lengths=lengths, attention_mask=attention_mask, position_ids=None, stacklevel=5
            )
        (B, S), device = inputs.shape, inputs.tokens.device
        counts = [S] * B if inputs.valid is None else inputs.valid.sum(1).tolist()
        wanted = self._limits(counts, max_length, options, changes)
        # ``checked`` refuses options of another type.
        if not isinstance(options, DecodingOptions) or options.suppress_tokens is None:
            changes = {"suppress_tokens": (), **changes}
        changes["max_new_tokens"] = max(limit.tokens for limit in wanted)
        options = DecodingOptions.checked(self.config, options, **changes)
        check_device_can_decode(device, options)
        if at_limit == "original" and options.eos_ids != (self.config.eos_token_id,):
            raise InputError(
                "at_limit='original' ends translations with </s> alone",
                where="at_limit, eos_token_id",
                found=f"eos_token_id = {options.eos_token_id!r}",
                expected=f"None or {self.config.eos_token_id}, the model's </s>",
            )
        # The last token is not fed to the model, so it needs no position.
        room = Limit(self.config.max_position_embeddings, "positions")
        limits = tuple(min(limit, room, key=lambda limit: limit.tokens) for limit in wanted)
        target_langs_BT = None
        if decoder_langs is not None:
            T = options.new_tokens + 1
            with _naming_the_decoder():
                target_langs_BT = language_ids(self.config, decoder_langs, B, T, device).expand(B, T)
        else:
            self.decoder._warn_about_langs(stacklevel=4, argument="decoder_langs")
        prompts = Prompts(
            inputs=TransformerInputs(
                input_ids=torch.full((B, 1), self.config.eos_token_id, device=device),
                position_ids=torch.zeros((1, 1), dtype=torch.int64, device=device),
                langs=None if target_langs_BT is None else target_langs_BT[:, :1],
            ),
            lengths=(1,) * B,
            limits=limits,
            new_langs=None if target_langs_BT is None else target_langs_BT[:, 1:],
        )
        return Source(encoded.hidden, inputs.valid, keep=True), prompts, options

    @staticmethod
    def _limits(
        counts: list[int], max_length: int | None, options: DecodingOptions | None, changes: dict[str, Any]
    ) -> list[Limit]:
        """Return how many tokens each row may get after the first ``</s>``; ``counts`` are the source lengths."""
        new = changes.get("max_new_tokens")
        if new is None and isinstance(options, DecodingOptions):
            new = options.max_new_tokens
        if max_length is None and new is None:
            return [Limit(int(1.5 * count + 10) - 1, "max_length") for count in counts]
        if max_length is None:
            return [Limit(new if isinstance(new, int) else 0, "max_new_tokens")] * len(counts)
        if new is not None:
            raise InputError(
                "max_length and max_new_tokens were both given",
                where="max_length, max_new_tokens",
                found=f"max_length = {max_length!r}, max_new_tokens = {new!r}",
                expected="one of them, or neither",
            )
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
            raise InputError(
                "max_length out of range",
                where="max_length",
                found=repr(max_length),
                expected="a whole number of at least 2, for </s> at both ends",
            )
        return [Limit(max_length - 1, "max_length")] * len(counts)

    def _continue(
        self,
        source: Source,
        prompts: Prompts,
        options: DecodingOptions,
        at_limit: AtLimit,
        *,
        with_logprobs: bool,
    ) -> list[Continuation]:
        rules = OriginalBeams if at_limit == "original" else TranslationBeams
        continuations = self.decoder._continue(
            prompts, options, with_logprobs=with_logprobs, source=source, rules=rules
        )
        if at_limit == "original" and options.num_beams == 1:
            return [cut_like_the_original(continuation, options) for continuation in continuations]
        return continuations


@contextmanager
def _naming_the_decoder() -> Iterator[None]:
    """Let an error say that the arguments it names belong to the decoder."""
    try:
        yield
    except (InputError, LanguageError) as error:
        if error.where != "labels":  # which belongs to the decoder alone
            error.where = ", ".join(f"decoder_{name}" for name in str(error.where).split(", "))
        raise
