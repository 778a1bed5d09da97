"""What is to be continued, checked: prompts, their languages, and how far each can go.

Shapes: B prompts, T positions, S new tokens at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xlm.errors import InputError, LanguageError, XLMError
from xlm.model.decoding.options import DecodingOptions
from xlm.model.inputs import Languages, language_ids, prepare_inputs
from xlm.model.network import Network
from xlm.model.transformer import TransformerInputs

_WITHOUT_FLOAT64 = ("mps",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Checked prompts.

    Attributes:
        inputs: The prompts, padded on the right.
        lengths: Tokens of each prompt, B of them.
        limits: The most new tokens that each prompt can get, B of them.
        new_langs: (B, S) int64, the language of each new token; ``None`` adds no language embedding.
    """

    inputs: TransformerInputs
    lengths: tuple[int, ...]
    limits: tuple[int, ...]
    new_langs: Tensor | None

    @property
    def capacity(self) -> int:
        """Tokens that the longest row comes to hold; the last token of a row is not fed again."""
        kept = (length + limit - 1 for length, limit in zip(self.lengths, self.limits, strict=True))
        return max(self.inputs.input_ids.shape[1], *kept)


def prepare_prompts(
    model: Network,
    input_ids: Tensor,
    *,
    langs: Languages | None,
    lengths: Tensor | None,
    attention_mask: Tensor | None,
    continuation_langs: Languages | None,
    options: DecodingOptions,
) -> Prompts:
    """Prompts for a model; the arguments are those of its ``generate``.

    Raises:
        InputError: A shape, type or value that the model cannot take.
        LanguageError: A language that the model does not have.
    """
    config = model.config
    if not config.causal:
        raise InputError(
            "a bidirectional model does not generate: it predicts a word from both sides",
            where="model",
            found="causal = False",
            expected="a causal model",
            remedy="load it with causal=True, if it was trained as a causal model",
        )
    inputs = prepare_inputs(config, input_ids, langs=langs, lengths=lengths, attention_mask=attention_mask)
    if not inputs.right_padded:
        raise InputError(
            "padding must stand behind the prompts",
            where="input_ids" if attention_mask is None else "attention_mask",
            found="padding left of real tokens",
            expected="each row's tokens first, then its padding",
            remedy="pad on the right; of a prompt that holds <pad> on purpose, say how long it is with lengths=",
        )
    if (options.do_sample or options.num_beams > 1) and model.device.type in _WITHOUT_FLOAT64:
        raise InputError(
            "sampling and beam search compute in float64, which this device does not have",
            where="do_sample, num_beams",
            found=f"a model on {model.device}",
            expected="a device with float64, or greedy decoding",
            remedy="model.to('cpu')",
        )
    if options.cuda_graphs and model.device.type != "cuda":
        raise InputError(
            "CUDA graphs are for CUDA devices",
            where="cuda_graphs",
            found=f"a model on {model.device}",
            expected="cuda_graphs=False",
        )
    B, T = inputs.input_ids.shape
    counts = (T,) * B if inputs.valid is None else tuple(inputs.valid.sum(1).tolist())
    if inputs.valid is not None:
        inputs = _without_common_padding(inputs, counts)
    # The last new token is not fed again, so it needs no position.
    room = (config.max_position_embeddings - count + 1 for count in counts)
    return Prompts(
        inputs=inputs,
        lengths=counts,
        limits=tuple(min(options.max_new_tokens, places) for places in room),
        new_langs=_new_langs(model, inputs, counts, continuation_langs, options.max_new_tokens),
    )


def _without_common_padding(inputs: TransformerInputs, counts: tuple[int, ...]) -> TransformerInputs:
    """Without the columns that are padding in every row; rows of one length then need no padding at all."""
    longest = max(counts)
    langs, valid_BT = inputs.langs, inputs.valid
    assert valid_BT is not None
    return TransformerInputs(
        input_ids=inputs.input_ids[:, :longest],
        position_ids=inputs.position_ids[:, :longest],
        langs=None if langs is None else langs[:, :longest],
        valid=None if min(counts) == longest else valid_BT[:, :longest],
    )


def _new_langs(
    model: Network,
    inputs: TransformerInputs,
    lengths: tuple[int, ...],
    continuation_langs: Languages | None,
    S: int,
) -> Tensor | None:
    (B, T), device = inputs.input_ids.shape, inputs.input_ids.device
    if inputs.langs is None:
        if continuation_langs is not None:
            raise InputError(
                "the continuation has a language and the prompt has none",
                where="langs",
                found="continuation_langs without langs",
                expected="both, or neither",
            )
        return None
    if continuation_langs is None:
        last_B1 = torch.tensor(lengths, device=device)[:, None] - 1
        return inputs.langs.expand(B, T).gather(1, last_B1).expand(B, S)
    try:
        return language_ids(model.config, continuation_langs, B, S, device).expand(B, S)
    except (InputError, LanguageError) as error:
        raise _about_continuation(error) from None


def _about_continuation(error: XLMError) -> XLMError:
    error.where = "continuation_langs"
    return error
