"""Checked prompts: their ids, languages and limits.

Shapes: B prompts, T positions, S maximum number of new tokens, R rows of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xlm.errors import InputError, LanguageError
from xlm.model.config import XLMConfig
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.result import Continuation, Limit
from xlm.model.inputs import Languages, language_ids, prepare_inputs
from xlm.model.transformer import TransformerInputs

_WITHOUT_FLOAT64 = ("mps",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Checked prompts.

    Attributes:
        inputs: The prompts, padded on the right.
        lengths: Number of tokens of each of the B prompts.
        limits: How far each of the B prompts can be continued.
        new_langs: (B, S) int64 language of each new token; ``None`` adds no language embedding.
    """

    inputs: TransformerInputs
    lengths: tuple[int, ...]
    limits: tuple[Limit, ...]
    new_langs: Tensor | None

    @property
    def capacity(self) -> int:
        """Maximum number of tokens of one row that the model processes; it never processes the last new token."""
        held = (length + limit.tokens - 1 for length, limit in zip(self.lengths, self.limits, strict=True))
        return max(self.inputs.shape[1], *held)

    @property
    def ids(self) -> Tensor:
        """(B, T) ids of the prompts; T is 0 if they were given as embeddings."""
        ids, tokens = self.inputs.input_ids, self.inputs.tokens
        return torch.empty(len(tokens), 0, dtype=torch.int64, device=tokens.device) if ids is None else ids

    @property
    def valid_ids(self) -> Tensor | None:
        """(B, T) boolean, true where ``ids`` is not padding; ``None`` if there is no padding."""
        return None if self.inputs.input_ids is None else self.inputs.valid


def prepare_prompts(
    config: XLMConfig,
    device: torch.device,
    input_ids: Tensor | None,
    *,
    options: DecodingOptions,
    inputs_embeds: Tensor | None = None,
    langs: Languages | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    continuation_langs: Languages | None = None,
) -> Prompts:
    """Check the prompts of a decoder-only model.

    Args:
        config: Configuration of the model.
        device: Device of the model.
        input_ids: (B, T) int64 ids. ``XLMWithLMHeadModel.generate`` describes the inputs.
        options: Checked options.
        inputs_embeds: (B, T, D) word embeddings in place of ``input_ids``.
        langs: Languages of the prompts.
        lengths: (B,) numbers of real tokens.
        attention_mask: (B, T), 0 at padding.
        continuation_langs: Languages of the new tokens.

    Raises:
        InputError: An input has a wrong shape, type or value.
        LanguageError: A language that the model does not have.
    """
    if not config.causal:
        raise InputError(
            "a bidirectional model cannot generate: it predicts a word from both sides",
            where="model",
            found="causal = False",
            expected="a causal model",
            remedy="load it with causal=True, if it was trained as a causal model",
        )
    inputs = prepare_inputs(
        config, input_ids, inputs_embeds=inputs_embeds, langs=langs, lengths=lengths, attention_mask=attention_mask
    )
    if not inputs.right_padded:
        raise InputError(
            "padding must be on the right",
            where="input_ids" if attention_mask is None else "attention_mask",
            found="padding left of real tokens",
            expected="each row's tokens first, then its padding",
            remedy="pad on the right; if <pad> is part of a prompt, pass lengths=",
        )
    check_device_can_decode(device, options)
    B, T = inputs.shape
    counts = (T,) * B if inputs.valid is None else tuple(inputs.valid.sum(1).tolist())
    if inputs.valid is not None:
        inputs = _without_common_padding(inputs, counts)
    # The last new token is never fed to the model, so it needs no position.
    room = (config.max_position_embeddings - count + 1 for count in counts)
    wanted = Limit(options.new_tokens, "max_new_tokens")
    return Prompts(
        inputs=inputs,
        lengths=counts,
        limits=tuple(min(wanted, Limit(tokens, "positions"), key=lambda limit: limit.tokens) for tokens in room),
        new_langs=_new_langs(config, inputs, counts, continuation_langs, options.new_tokens),
    )


def check_device_can_decode(device: torch.device, options: DecodingOptions) -> None:
    """Check that a device has what the options of decoding need.

    Raises:
        InputError: The device has no float64 or no CUDA graphs, and an option needs them.
    """
    if (options.do_sample or options.num_beams > 1) and device.type in _WITHOUT_FLOAT64:
        raise InputError(
            "sampling and beam search need float64, which this device does not have",
            where="do_sample, num_beams",
            found=f"a model on {device}",
            expected="a device with float64, or greedy decoding",
            remedy="model.to('cpu')",
        )
    if options.cuda_graphs and device.type != "cuda":
        raise InputError(
            "CUDA graphs need a CUDA device",
            where="cuda_graphs",
            found=f"a model on {device}",
            expected="cuda_graphs=False",
        )


def _without_common_padding(inputs: TransformerInputs, counts: tuple[int, ...]) -> TransformerInputs:
    """Drop the columns that are padding in every row."""
    longest = max(counts)
    langs, valid_BT = inputs.langs, inputs.valid
    assert valid_BT is not None
    return TransformerInputs(
        input_ids=None if inputs.input_ids is None else inputs.input_ids[:, :longest],
        inputs_embeds=None if inputs.inputs_embeds is None else inputs.inputs_embeds[:, :longest],
        position_ids=inputs.position_ids[:, :longest],
        langs=None if langs is None else langs[:, :longest],
        valid=None if min(counts) == longest else valid_BT[:, :longest],
    )


def _new_langs(
    config: XLMConfig,
    inputs: TransformerInputs,
    lengths: tuple[int, ...],
    continuation_langs: Languages | None,
    S: int,
) -> Tensor | None:
    (B, T), device = inputs.shape, inputs.tokens.device
    if inputs.langs is None:
        if continuation_langs is not None:
            raise InputError(
                "continuation_langs was given without langs",
                where="langs",
                found="langs = None",
                expected="both or neither",
            )
        return None
    if continuation_langs is None:
        last_B1 = torch.tensor(lengths, device=device)[:, None] - 1
        return inputs.langs.expand(B, T).gather(1, last_B1).expand(B, S)
    try:
        return language_ids(config, continuation_langs, B, S, device).expand(B, S)
    except (InputError, LanguageError) as error:
        error.where = "continuation_langs"
        raise


def with_prompts(prompts: Prompts, continuations: list[Continuation], *, pad_id: int) -> Tensor:
    """Return (R, T) int64: each prompt with its continuation, padded on the right, on the device of the prompts."""
    ids = prompts.ids
    # Prompts given as embeddings have no ids, so that only the new tokens are returned.
    lengths = [0 if prompts.inputs.input_ids is None else prompts.lengths[c.prompt] for c in continuations]
    longest = max(length + len(c.tokens) for length, c in zip(lengths, continuations, strict=True))
    result = torch.full((len(continuations), longest), pad_id)
    on_cpu = ids.cpu()
    for row, (length, c) in enumerate(zip(lengths, continuations, strict=True)):
        result[row, :length] = on_cpu[c.prompt, :length]
        result[row, length : length + len(c.tokens)] = torch.tensor(c.tokens)
    return result.to(ids.device)
