"""Checks of a model's inputs, and their conversion to ``TransformerInputs``.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from xlm.errors import InputError
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.transformer import TransformerInputs

Languages = str | int | Sequence[str | int] | Tensor
"""Language of the tokens: one name or id for all rows, one name or id for each row, or a (B, T) tensor of ids."""


class InputKeywords(TypedDict):
    """Keyword arguments that describe ``input_ids``; see ``XLMWithLMHeadModel.forward``."""

    langs: Languages | None
    lengths: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None


_INTEGERS = (torch.int64, torch.int32)
_WITH_VALUES = (Tensor, nn.Parameter)


def prepare_inputs(
    config: XLMConfig,
    input_ids: Tensor | None,
    *,
    inputs_embeds: Tensor | None = None,
    langs: Languages | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: XLMCache | None = None,
    check_values: bool = True,
) -> TransformerInputs:
    """Check the inputs of one forward pass, and return them on the device of ``input_ids``.

    Args:
        config: Configuration of the model.
        input_ids: (B, T) ids. ``XLMWithLMHeadModel.forward`` describes this argument and the next six.
        inputs_embeds: (B, T, D) word embeddings in place of ``input_ids``.
        langs: Languages of the tokens.
        lengths: Number of real tokens in each row.
        attention_mask: 1 at tokens, 0 at padding.
        position_ids: Positions of the tokens.
        cache: Keys and values of earlier tokens.
        check_values: Whether to check the values of the inputs; on a GPU, this check waits for earlier work. Types and
            shapes are always checked. Without the check, slower kernels are used unless ``lengths`` is given, because
            it is unknown on which side the padding is.

    Raises:
        InputError: An input has a wrong shape, type or value, or ``torch.jit.trace`` is tracing.
        LanguageError: The model does not have a language.
    """
    _refuse_tracing()
    tokens = _checked_tokens(config, input_ids, inputs_embeds)
    given = (tokens, langs, lengths, attention_mask, position_ids)
    check_values = all(looks_at_values(tensor, check_values) for tensor in given if isinstance(tensor, Tensor))
    (B, T), device = tokens.shape[:2], tokens.device
    if check_values and input_ids is not None:
        _check_range("input_ids", input_ids, limit=config.vocab_size, what="words")
    valid_BT, right_padded = _valid_positions(
        config, input_ids, (B, T), device, lengths, attention_mask, check_values=check_values
    )
    if cache is not None:
        # If values are not checked, assume that padding is on the right, because a cache requires that.
        right_padded = right_padded or not check_values
        _check_cache(config, cache, tokens, right_padded=right_padded, check_values=check_values)
    if position_ids is not None:
        check_shape("position_ids", position_ids, (B, T))
        check_whole("position_ids", position_ids)
        if check_values:
            _check_range("position_ids", position_ids, limit=config.max_position_embeddings, what="positions")
        position_ids = onto("position_ids", position_ids, device)
    else:
        if T > config.max_position_embeddings:
            raise InputError(
                "the input is too long",
                where="input_ids" if inputs_embeds is None else "inputs_embeds",
                found=f"{T} tokens",
                expected=f"at most {config.max_position_embeddings} (the model's position embeddings)",
                remedy="split the text, or score it in windows",
            )
        position_ids = _default_positions(T, cache, None if right_padded else valid_BT, device)
    return TransformerInputs(
        input_ids=input_ids,
        inputs_embeds=inputs_embeds,
        position_ids=position_ids,
        langs=None if langs is None else language_ids(config, langs, B, T, device, check_values=check_values),
        valid=valid_BT,
        right_padded=right_padded,
    )


def looks_at_values(tensor: Tensor, wanted: bool) -> bool:
    """Return ``wanted``, or False if the values of the tensor cannot be read.

    They cannot be read during compilation and export, on the meta device, from a fake tensor (a subclass of
    ``Tensor``), and inside the transforms of ``torch.func``.
    """
    return (
        wanted
        and type(tensor) in _WITH_VALUES
        and not (torch.compiler.is_compiling() or tensor.is_meta or is_transformed(tensor))
    )


def is_transformed(tensor: Tensor) -> bool:
    """Return whether a tensor is the argument or a result of a function inside a transform of ``torch.func``."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _refuse_tracing() -> None:
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise InputError(
            "tracing would record the shapes and the padding of one input only",
            where="torch.jit.trace, or torch.onnx.export(dynamo=False)",
            found="tracing is on",
            expected="eager mode, torch.compile or torch.export",
            remedy="torch.export.export(model, ...), or torch.onnx.export(model, ..., dynamo=True)",
        )


def onto(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor moved to a device, without waiting until a GPU has finished earlier work."""
    if device.type != "meta":
        _check_presence(name, tensor)
    return tensor.to(device, non_blocking=device.type == "cuda")


def _bounds(name: str, tensor: Tensor) -> tuple[int, int]:
    """Return the smallest and the largest value of a tensor, in one transfer from a GPU."""
    _check_presence(name, tensor)
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    return low, high


def _check_presence(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise _invalid(
            name, "has no values", found="a tensor on the meta device", expected="a tensor on the device of input_ids"
        )


def _invalid(name: str, fault: str, **details: Any) -> InputError:
    """Return the error for an argument, such as "input_ids is empty"."""
    return InputError(f"{name} {fault}", where=name, **details)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def check_tensor(name: str, value: object, fault: str, *, expected: str) -> None:
    """Raise ``InputError`` unless ``value`` is a dense tensor; the message is ``name`` followed by ``fault``."""
    if _is_dense(value):
        return
    raise _invalid(
        name,
        fault,
        found="a sparse or nested tensor" if isinstance(value, Tensor) else type(value).__name__,
        expected=expected,
        remedy="wrap it in torch.tensor" if isinstance(value, list | tuple) else None,
    )


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless ``tensor`` is a dense tensor of the given shape."""
    if not _is_dense(tensor) or tuple(tensor.shape) != shape:
        fault, expected = "has the wrong shape", f"a tensor of shape {shape}"
        check_tensor(name, tensor, fault, expected=expected)
        raise _invalid(name, fault, found=tuple(tensor.shape), expected=expected)


def check_placement(inputs: TransformerInputs, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ``InputError`` unless the ids or embeddings have the device of the model, and embeddings fit its type."""
    # Libraries that load weights on demand keep them on the meta device between uses. The ids may then be on any
    # device.
    if device.type != "meta" and inputs.tokens.device != device:
        name = "input_ids" if inputs.inputs_embeds is None else "inputs_embeds"
        fault = "is on another device than the model"
        raise _invalid(name, fault, found=inputs.tokens.device, expected=device, remedy=f"{name}.to(model.device)")
    if (embeds := inputs.inputs_embeds) is not None and torch.promote_types(embeds.dtype, dtype) != dtype:
        raise _invalid(
            "inputs_embeds",
            "is of another type than the model",
            found=embeds.dtype,
            expected=dtype,
            remedy="inputs_embeds.to(model.dtype)",
        )


def check_device_exists(device: torch.device | str) -> None:
    """Raise ``InputError`` unless this machine has the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(
            "no such device",
            where="device",
            found=f"{device}: {str(error).partition(chr(10))[0]}",
            expected="cpu, or cuda if torch supports it",
        ) from error


def check_whole(name: str, tensor: Tensor) -> None:
    """Raise ``InputError`` unless a tensor is int64 or int32."""
    if tensor.dtype not in _INTEGERS:
        raise _invalid(name, "must be whole numbers", found=tensor.dtype, expected="an int64 tensor")


def _checked_tokens(config: XLMConfig, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """Return the ids or the embeddings, whichever was given."""
    if inputs_embeds is None:
        return _checked_ids(input_ids)
    if input_ids is not None:
        raise InputError(
            "input_ids and inputs_embeds were both given",
            where="input_ids, inputs_embeds",
            found="both",
            expected="one of them",
        )
    fault = "does not hold word embeddings"
    expected = f"a floating-point tensor of shape (batch, tokens, {config.emb_dim})"
    check_tensor("inputs_embeds", inputs_embeds, fault, expected=expected)
    if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != config.emb_dim or not inputs_embeds.is_floating_point():
        found = f"{inputs_embeds.dtype} of shape {tuple(inputs_embeds.shape)}"
        remedy = "model.transformer.embeddings.word(input_ids) has the embeddings of tokens"
        raise _invalid("inputs_embeds", fault, found=found, expected=expected, remedy=remedy)
    if inputs_embeds.numel() == 0:
        shape = tuple(inputs_embeds.shape)
        raise _invalid("inputs_embeds", "is empty", found=shape, expected="at least one token per row")
    return inputs_embeds


def _checked_ids(ids: Tensor | None) -> Tensor:
    fault, expected = "must be a matrix of whole numbers", "an int64 tensor of shape (batch, tokens)"
    check_tensor("input_ids", ids, fault, expected=expected)
    assert ids is not None
    if ids.dim() != 2 or ids.dtype not in _INTEGERS:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}"
        remedy = "for one sentence: torch.tensor([ids])"
        raise _invalid("input_ids", fault, found=found, expected=expected, remedy=remedy)
    if ids.numel() == 0:
        raise _invalid("input_ids", "is empty", found=tuple(ids.shape), expected="at least one token per row")
    return ids


def _check_range(name: str, ids: Tensor, *, limit: int, what: str) -> None:
    low, high = _bounds(name, ids)
    if low < 0 or high >= limit:
        raise _invalid(
            name,
            "is out of range",
            found=f"values from {low} to {high}",
            expected=f"0 to {limit - 1} (the model has {limit} {what})",
            remedy="use the tokenizer that belongs to this model" if name == "input_ids" else "shorten the input",
        )


def _valid_positions(
    config: XLMConfig,
    input_ids: Tensor | None,
    shape: tuple[int, int],
    device: torch.device,
    lengths: Tensor | None,
    attention_mask: Tensor | None,
    *,
    check_values: bool,
) -> tuple[Tensor | None, bool]:
    """Return the mask of real positions, and whether padding is known to be on the right only.

    The mask is ``None`` if all positions are real.
    """
    B, T = shape
    if lengths is not None and attention_mask is not None:
        raise InputError(
            "lengths and attention_mask were both given",
            where="lengths, attention_mask",
            found="both",
            expected="at most one of them; without both, <pad> is padding",
        )
    if lengths is not None:
        check_shape("lengths", lengths, (B,))
        check_whole("lengths", lengths)
        if check_values:
            shortest, longest = _bounds("lengths", lengths)
            if shortest < 1 or longest > T:
                raise _invalid("lengths", "is out of range", found=lengths.tolist(), expected=f"1 to {T} each")
            if shortest == T:
                return None, True
        return torch.arange(T, device=device) < onto("lengths", lengths, device)[:, None], True
    if attention_mask is None:
        if input_ids is None:
            return None, True
        valid_BT = input_ids != config.pad_token_id
    else:
        check_shape("attention_mask", attention_mask, (B, T))
        attention_mask = onto("attention_mask", attention_mask, device)
        valid_BT = attention_mask == 1
    if not check_values:
        return valid_BT, False
    if bool(valid_BT.all()):
        return None, True
    tests = [valid_BT.any(1).all(), (valid_BT[:, :-1] >= valid_BT[:, 1:]).all()]
    if attention_mask is not None:
        tests.append((valid_BT | (attention_mask == 0)).all())
    every_row, right_padded, *rest = torch.stack(tests).tolist()  # waits for a GPU only once
    if attention_mask is not None and not all(rest):
        values = sorted(set(map(str, attention_mask.flatten().tolist())))
        raise _invalid(
            "attention_mask",
            "has values other than 0 and 1",
            found=", ".join(values[:4]) + (", ..." if len(values) > 4 else ""),
            expected="1 (or true) at tokens, 0 (or false) at padding",
            remedy="if the mask has 0 at tokens and large negative numbers at padding, pass attention_mask == 0",
        )
    if not every_row:
        raise InputError(
            "rows without any token",
            where=f"rows {(~valid_BT.any(1)).nonzero().flatten().tolist()}",
            found="padding only",
            expected="at least one token",
            remedy=None if attention_mask is None else "attention_mask is 1 at tokens and 0 at padding",
        )
    return valid_BT, right_padded


def _check_cache(config: XLMConfig, cache: XLMCache, tokens: Tensor, *, right_padded: bool, check_values: bool) -> None:
    B, T = tokens.shape[:2]
    if not isinstance(cache, XLMCache):
        raise _invalid(
            "cache",
            "is not a cache",
            found=repr(cache) if isinstance(cache, bool) else type(cache).__name__,
            expected="an XLMCache or None",
            remedy="cache = model.new_cache(batch_size), passed to each forward",
        )
    if not config.causal:
        raise InputError(
            "a bidirectional model cannot use a cache",
            where="cache",
            found="causal = False",
            expected="a causal model",
            remedy="pass no cache: every new token changes the results of all earlier ones",
        )
    if torch.is_grad_enabled():
        raise InputError(
            "a cache cannot be used with gradients",
            where="cache",
            found="gradients enabled",
            expected="torch.no_grad() or torch.inference_mode()",
        )
    dimensions = tuple(cache.keys.shape[dim] for dim in (0, 2, 4))
    if dimensions != (config.n_layers, config.n_heads, config.head_dim):
        raise InputError(
            "the cache was made for another model",
            where="cache",
            found=f"{dimensions} layers, heads and head width",
            expected=(config.n_layers, config.n_heads, config.head_dim),
            remedy="model.new_cache(batch_size)",
        )
    if cache.keys.device != tokens.device:
        raise InputError(
            "the cache is on another device than input_ids",
            where="cache",
            found=cache.keys.device,
            expected=tokens.device,
        )
    if cache.batch_size != B:
        raise InputError(
            "the cache has another batch size than input_ids", where="cache", found=cache.batch_size, expected=B
        )
    if not right_padded:
        raise InputError(
            "with a cache, padding must be on the right",
            where="attention_mask",
            found="padding left of real tokens",
            expected="each row's tokens first, then its padding",
        )
    if cache.longest + T > cache.capacity and cache.uniform_length is None:
        if not check_values:
            return
        cache.measure()
    if cache.longest + T > cache.capacity:
        raise InputError(
            "the cache is full",
            where="cache",
            found=f"{cache.longest} tokens in the cache and {T} new ones",
            expected=f"at most {cache.capacity} together",
            remedy=f"a larger capacity, up to the model's {config.max_position_embeddings} positions",
        )


def _default_positions(T: int, cache: XLMCache | None, valid_BT: Tensor | None, device: torch.device) -> Tensor:
    """Return positions that count from 0 at each row's first token, or continue after the tokens in the cache.

    ``valid_BT`` is ``None`` if there is no padding, or only padding on the right.
    """
    if valid_BT is not None:
        return (valid_BT.cumsum(1) - 1).clamp_min(0)
    positions_T = torch.arange(T, device=device)
    if cache is None:
        return positions_T[None]
    if cache.uniform_length is not None:
        return positions_T[None] + cache.uniform_length
    return cache.lengths[:, None] + positions_T


def language_ids(
    config: XLMConfig, langs: Languages, B: int, T: int, device: torch.device, *, check_values: bool = True
) -> Tensor:
    """Return language ids on a device, as an int64 tensor that broadcasts to (B, T).

    Args:
        config: Configuration of the model.
        langs: Languages, in one of the forms of ``Languages``.
        B: Number of rows.
        T: Number of tokens per row.
        device: Device of the result.
        check_values: Whether to check the values of a tensor.

    Raises:
        InputError: ``langs`` has a wrong type or shape.
        LanguageError: The model does not have a language.
    """
    if isinstance(langs, str | int):
        return torch.full((1, 1), config.language_id(langs), device=device)
    if not isinstance(langs, Tensor):
        if not isinstance(langs, Sequence):
            raise _invalid(
                "langs",
                "has the wrong type",
                found=type(langs).__name__,
                expected="a language name or id, a list of them, or a tensor of ids",
            )
        langs = torch.tensor([config.language_id(language) for language in langs])
        check_values = False
    check_tensor("langs", langs, "has the wrong type", expected="a tensor of ids")
    langs_BT = langs[:, None] if langs.dim() == 1 else langs
    # Compare number by number: compiled code cannot look for a tuple of symbolic sizes in another tuple.
    if langs_BT.dim() != 2 or langs_BT.shape[0] != B or (langs_BT.shape[1] != T and langs_BT.shape[1] != 1):
        raise _invalid(
            "langs",
            "has the wrong shape",
            found=tuple(langs.shape),
            expected=f"one language for all, one for each of {B} rows, or a tensor of shape {(B, T)}",
        )
    check_whole("langs", langs)
    if check_values:
        for bound in _bounds("langs", langs):
            config.language_id(bound)
    return onto("langs", langs_BT, device)
