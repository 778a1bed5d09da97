"""Check the tensors of a model or a file; one error names every invalid tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from xlm.checkpoint.json_codec import has_own_numbers
from xlm.checkpoint.state_dict_map import HALVES, KeyTable
from xlm.errors import CheckpointError, ConfigError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.network import XLMModel
from xlm.model.seq2seq import XLMDecoder, XLMEncoderDecoderModel

_Model = TypeVar("_Model", bound=XLMModel | XLMEncoderDecoderModel)
_LISTED = 12
_LAYER = re.compile(r"^transformer\.layers\.(\d+)\.")
_TAIL = re.compile(r"^head\.adaptive\.tail\.(\d+)\.")


FLOAT_TYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types of weights that a checkpoint may hold."""


@overload
def empty_model(config: XLMConfig) -> XLMWithLMHeadModel: ...
@overload
def empty_model(config: XLMConfig, kind: type[_Model]) -> _Model: ...
def empty_model(config: XLMConfig, kind: type[Any] = XLMWithLMHeadModel) -> Any:
    """Return a model on torch's ``meta`` device, which allocates no memory for its weights.

    Raises:
        ConfigError: The sizes are too large for tensors.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (RuntimeError, OverflowError) as error:
        raise ConfigError(
            "the sizes are too large for tensors", where="sizes", found=str(error).split("\n")[0]
        ) from error


def match_tensors(
    table: KeyTable,
    source: Mapping[str, object],
    config: XLMConfig,
    *,
    where: Path,
    is_encoder_decoder: bool = False,
    kind: type[XLMModel] = XLMWithLMHeadModel,
) -> dict[str, Tensor]:
    """Check that the tensors of a file are complete and valid, and return them by our names.

    Args:
        table: The tensor names of the file's format.
        source: The tensors as read, by their names in the file.
        config: The architecture that the tensors must match.
        where: The file, for the message.
        is_encoder_decoder: Whether the tensors are those of an encoder-decoder, so that names begin with its halves.
        kind: Class of the model that the tensors are for, unless they are those of an encoder-decoder.

    Returns:
        Tensors by this library's names, without the head's weight when it is tied to the word embeddings.

    Raises:
        CheckpointError: A tensor is missing, extra, present twice, of the wrong shape or type, expanded, not finite, or
            not equal to the word embeddings that it is tied to. The message names every such tensor.
    """
    if is_encoder_decoder:
        tensors, problems = sort_halves(table, source, config)
    else:
        tensors, problems = sort_tensors(table, source, config, kind=kind)
    if problems:
        raise CheckpointError(
            "the tensors do not match the configuration",
            where=where,
            found=list_problems(problems),
            expected=describe(config),
            remedy="fetch the file again if it is damaged; other kinds of models are not supported",
        )
    return tensors


def sort_halves(
    table: KeyTable, source: Mapping[str, object], config: XLMConfig
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of an encoder-decoder under our names, and their faults, as ``sort_tensors`` does."""
    tensors: dict[str, Tensor] = {}
    problems: dict[str, list[str]] = {}
    kinds = {"encoder": XLMWithLMHeadModel, "decoder": XLMDecoder}
    for half in HALVES:
        names = {name.removeprefix(f"{half}."): name for name in source if name.startswith(f"{half}.")}
        sorted_half, faults = sort_tensors(
            table, {name: source[whole] for name, whole in names.items()}, config, kind=kinds[half]
        )
        tensors |= {f"{half}.{name}": tensor for name, tensor in sorted_half.items()}
        for fault, items in faults.items():
            problems.setdefault(fault, []).extend(f"{half}.{item}" for item in items)
    if others := [name for name in source if not name.startswith(tuple(f"{half}." for half in HALVES))]:
        problems.setdefault("extra", []).extend(others)
    return tensors, problems


def sort_tensors(
    table: KeyTable, source: Mapping[str, object], config: XLMConfig, *, kind: type[XLMModel] = XLMWithLMHeadModel
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return tensors by our names, as ``match_tensors`` does, and the names of faulty tensors by kind of fault.

    Use the tensors only if there are no faults. ``kind`` is the class of the model that they are for.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    problems: dict[str, list[str]] = {}

    def problem(kind: str, text: str) -> None:
        problems.setdefault(kind, []).append(text)

    for theirs, tensor in source.items():
        ours = table.ours(theirs)
        if theirs in table.dropped:
            continue
        if ours is None:
            problem("extra", theirs)
        elif not isinstance(tensor, Tensor):
            problem("not a tensor", f"{theirs} ({type(tensor).__name__})")
        elif ours in tensors:
            problem("present twice", f"{theirs} (also as {names[ours]})")
        else:
            tensors[ours], names[ours] = tensor, theirs

    has_head = issubclass(kind, XLMWithLMHeadModel)
    # Count the layers in the file before building a model, because a configuration may claim a million layers.
    layers, tails = (len({match[1] for match in map(part.match, tensors) if match}) for part in (_LAYER, _TAIL))
    if config.n_layers > layers:
        problem("missing", f"{config.n_layers - layers} of the {config.n_layers} layers in the configuration")
    elif config.asm and has_head and len(config.asm_cutoffs) > tails:
        claimed = len(config.asm_cutoffs)
        problem("missing", f"{claimed - tails} of the {claimed} tail clusters of the adaptive softmax")
    else:
        _compare_shapes(table, tensors, names, config, kind, problem)
    for ours, tensor in tensors.items():
        if tensor.dtype not in FLOAT_TYPES:
            problem("not floating point", f"{names[ours]} ({tensor.dtype})")
        elif type(tensor) not in (Tensor, nn.Parameter):  # a subclass, such as that of sharded weights
            problem("not a plain tensor", f"{names[ours]} ({type(tensor).__name__})")
        elif tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
            problem("not a plain tensor", f"{names[ours]} ({tensor.layout}, {tensor.device})")
        elif not has_own_numbers(tensor):
            problem("not a plain tensor", f"{names[ours]} (fewer values stored than its shape has)")
        elif count := _count_non_finite(tensor):
            problem("not finite", f"{names[ours]} ({count} of {tensor.numel()} values)")
    if not problems and config.tied and "head.weight" in tensors:
        head, words = tensors.pop("head.weight"), tensors["transformer.embeddings.word.weight"]
        if head.data_ptr() != words.data_ptr() and not torch.equal(head, words):
            problem("not equal to the word embeddings that it is tied to", names["head.weight"])
    return tensors, problems


def list_problems(problems: Mapping[str, list[str]]) -> str:
    """Return the faults of tensors for a message, with a line for each kind of fault."""
    return "".join(f"\n    {kind}: {_listing(items)}" for kind, items in problems.items())


def describe(config: XLMConfig) -> str:
    """Return an architecture in words, for a message."""
    return (
        f"an XLM model with {config.n_layers} layers of width {config.emb_dim}, "
        f"{config.vocab_size} words, {config.n_langs} language(s), "
        f"{'adaptive' if config.asm else 'tied' if config.tied else 'untied'} head"
    )


def _compare_shapes(
    table: KeyTable,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    config: XLMConfig,
    kind: type[XLMModel],
    problem: Callable[[str, str], None],
) -> None:
    # All layers have the same shapes, so a model with one layer shows the shapes of all.
    first = "transformer.layers.0."
    expected = {
        name.replace(first, f"transformer.layers.{layer}."): tuple(tensor.shape)
        for name, tensor in empty_model(config.replace(n_layers=1), kind).state_dict().items()
        for layer in range(config.n_layers if name.startswith(first) else 1)
    }
    if config.tied and issubclass(kind, XLMWithLMHeadModel):
        expected["head.weight"] = expected["transformer.embeddings.word.weight"]
    for ours, shape in expected.items():
        if ours in tensors:
            if tuple(tensors[ours].shape) != shape:
                problem("wrong shape", f"{names[ours]} {tuple(tensors[ours].shape)} instead of {shape}")
        elif not (config.tied and ours == "head.weight"):
            problem("missing", table.theirs(ours))
    for ours in tensors.keys() - expected.keys():
        problem("extra", names[ours])


def _count_non_finite(tensor: Tensor) -> int:
    """Return the number of values that are NaN or infinite."""
    # A finite sum proves that all values are finite. It takes one pass and no temporary tensor.
    if math.isfinite(float(tensor.sum(dtype=torch.float32))):
        return 0
    return int(tensor.numel() - torch.isfinite(tensor).sum())


def _listing(items: list[str]) -> str:
    rest = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
