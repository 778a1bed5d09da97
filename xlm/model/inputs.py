"""What callers give to the model, checked and brought into one form.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from xlm.errors import InputError
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.transformer import TransformerInputs

Languages = str | int | Sequence[str | int] | Tensor
"""A language name or id for all, one a row, or a (B, T) tensor of ids."""


class InputKeywords(TypedDict):
    """What belongs to ``input_ids``, as keyword arguments; ``XLMWithLMHeadModel.forward`` says what each is."""

    langs: Languages | None
    lengths: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None


_WHOLE_NUMBERS = (torch.int64, torch.int32)


def prepare_inputs(
    config: XLMConfig,
    input_ids: Tensor,
    *,
    langs: Languages | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: XLMCache | None = None,
) -> TransformerInputs:
    """Inputs of one forward, each checked; the arguments are those of ``XLMWithLMHeadModel.forward``.

    Raises:
        InputError: A shape, type or value that the model cannot take.
        LanguageError: A language that the model does not have.
    """
    _check_ids("input_ids", input_ids, limit=config.vocab_size, what="words")
    B, T = input_ids.shape
    valid, right_padded = _valid_positions(config, input_ids, lengths, attention_mask)
    if cache is not None:
        _check_cache(config, cache, B, T, right_padded=right_padded)
    if position_ids is None:
        position_ids = _default_positions(config, T, cache, input_ids.device)
    else:
        check_shape("position_ids", position_ids, (B, T))
        _check_ids("position_ids", position_ids, limit=config.max_position_embeddings, what="positions")
    return TransformerInputs(
        input_ids=input_ids,
        position_ids=position_ids,
        langs=None if langs is None else language_ids(config, langs, B, T, input_ids.device),
        valid=valid,
        right_padded=right_padded,
    )


def _check_ids(name: str, ids: Tensor, *, limit: int, what: str) -> None:
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype not in _WHOLE_NUMBERS:
        raise InputError(
            f"{name} must be a matrix of whole numbers",
            where=name,
            found=f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__,
            expected="an int64 tensor of shape (batch, tokens)",
            remedy="for one sentence: torch.tensor([ids])" if isinstance(ids, Tensor) else "wrap it in torch.tensor",
        )
    if ids.numel() == 0:
        raise InputError(f"{name} is empty", where=name, found=tuple(ids.shape), expected="at least one token a row")
    if torch.compiler.is_compiling():
        return
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= limit:
        raise InputError(
            f"{name} out of range",
            where=name,
            found=f"values from {low} to {high}",
            expected=f"0 to {limit - 1} (the model has {limit} {what})",
            remedy="use the tokenizer that belongs to this model" if name == "input_ids" else "shorten the input",
        )


def check_shape(name: str, tensor: object, shape: tuple[int, ...]) -> None:
    """Raises ``InputError`` unless this is a tensor of that shape."""
    found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if found != shape:
        raise InputError(f"{name} has the wrong shape", where=name, found=found, expected=f"a tensor of shape {shape}")


def check_whole(name: str, tensor: Tensor) -> None:
    """Raises ``InputError`` unless these are int64 or int32."""
    if tensor.dtype not in _WHOLE_NUMBERS:
        raise InputError(f"{name} must be whole numbers", where=name, found=tensor.dtype, expected="an int64 tensor")


def _valid_positions(
    config: XLMConfig, input_ids: Tensor, lengths: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor | None, bool]:
    """Mask of real positions (``None`` when all are), and whether padding stands only on the right."""
    B, T = input_ids.shape
    if lengths is not None and attention_mask is not None:
        raise InputError(
            "lengths and attention_mask both say what is padding",
            where="lengths, attention_mask",
            found="both",
            expected="one of them, or neither (<pad> is then padding)",
        )
    if lengths is not None:
        check_shape("lengths", lengths, (B,))
        check_whole("lengths", lengths)
        shortest, longest = (int(bound) for bound in torch.aminmax(lengths))
        if shortest < 1 or longest > T:
            raise InputError("lengths out of range", where="lengths", found=lengths.tolist(), expected=f"1 to {T} each")
        if shortest == T:
            return None, True
        valid_BT = torch.arange(T, device=lengths.device) < lengths[:, None]
        return valid_BT.to(input_ids.device), True
    if attention_mask is None:
        valid_BT = input_ids != config.pad_token_id
    else:
        check_shape("attention_mask", attention_mask, (B, T))
        valid_BT = attention_mask.to(input_ids.device) != 0
    if bool(valid_BT.all()):
        return None, True
    if not bool(valid_BT.any(1).all()):
        empty = (~valid_BT.any(1)).nonzero().flatten().tolist()
        raise InputError(
            "rows without a single token", where=f"rows {empty}", found="padding only", expected="at least one token"
        )
    return valid_BT, bool((valid_BT[:, :-1] >= valid_BT[:, 1:]).all())


def _check_cache(config: XLMConfig, cache: XLMCache, B: int, T: int, *, right_padded: bool) -> None:
    if not config.causal:
        raise InputError(
            "a bidirectional model cannot use a cache",
            where="cache",
            found="causal = False",
            expected="a causal model",
            remedy="leave the cache out: with every new token all earlier positions change",
        )
    if torch.is_grad_enabled():
        raise InputError(
            "a cache is written in place, which gradients cannot pass",
            where="cache",
            found="gradients enabled",
            expected="torch.no_grad() or torch.inference_mode()",
        )
    made_for = tuple(cache.keys.shape[dim] for dim in (0, 2, 4))
    if made_for != (config.n_layers, config.n_heads, config.head_dim):
        raise InputError(
            "the cache was made for another model",
            where="cache",
            found=f"{made_for} layers, heads and head width",
            expected=(config.n_layers, config.n_heads, config.head_dim),
            remedy="model.new_cache(batch_size)",
        )
    if cache.batch_size != B:
        raise InputError("the cache has another batch size", where="cache", found=cache.batch_size, expected=B)
    if not right_padded:
        raise InputError(
            "with a cache, padding must stand on the right",
            where="attention_mask",
            found="padding left of real tokens",
            expected="each row's tokens first, then its padding",
        )
    if cache.longest + T > cache.capacity:
        raise InputError(
            "the cache is full",
            where="cache",
            found=f"{cache.longest} tokens held and {T} new ones",
            expected=f"at most {cache.capacity} together",
            remedy=f"a larger capacity, up to the model's {config.max_position_embeddings} positions",
        )


def _default_positions(config: XLMConfig, T: int, cache: XLMCache | None, device: torch.device) -> Tensor:
    if T > config.max_position_embeddings:
        raise InputError(
            "the input is too long",
            where="input_ids",
            found=f"{T} tokens",
            expected=f"at most {config.max_position_embeddings} (the model's position embeddings)",
            remedy="split the text, or score it in windows",
        )
    positions_T = torch.arange(T, device=device)
    if cache is None:
        return positions_T[None]
    if cache.uniform_length is not None:
        return positions_T[None] + cache.uniform_length
    return cache.lengths[:, None] + positions_T


def language_ids(config: XLMConfig, langs: Languages, B: int, T: int, device: torch.device) -> Tensor:
    """Language ids as an int64 tensor that broadcasts to (B, T).

    Raises:
        InputError: A shape or type that is none of ``Languages``.
        LanguageError: A language that the model does not have.
    """
    if isinstance(langs, str | int):
        return torch.tensor([[config.language_id(langs)]], device=device)
    if not isinstance(langs, Tensor):
        if not isinstance(langs, Sequence):
            raise InputError(
                "langs is of the wrong type",
                where="langs",
                found=type(langs).__name__,
                expected="a language name or id, a list of them, or a tensor of ids",
            )
        langs = torch.tensor([config.language_id(language) for language in langs], device=device)
    if langs.shape == (B,):
        langs = langs[:, None]
    if tuple(langs.shape) not in ((B, T), (B, 1)):
        raise InputError(
            "langs has the wrong shape",
            where="langs",
            found=tuple(langs.shape),
            expected=f"one language for all, one for each of {B} rows, or a tensor of shape {(B, T)}",
        )
    check_whole("langs", langs)
    if not torch.compiler.is_compiling():
        for bound in torch.aminmax(langs):
            config.language_id(int(bound))
    return langs.to(device)
