"""Save a model in the ``transformers`` layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xlm._io.arguments import as_path
from xlm._io.atomic import make_directory, replacing, write_text
from xlm.checkpoint.checkpoint import Provenance, weights_dtype
from xlm.checkpoint.hf_config import CONFIG_FILE, config_to_json
from xlm.checkpoint.hf_weights import WEIGHTS_FILE, dtype_name, write_safetensors
from xlm.checkpoint.state_dict_map import HEADLESS, OURS, TRANSFORMERS
from xlm.checkpoint.tensors import describe, empty_model, list_problems, sort_halves, sort_tensors
from xlm.errors import WriteError
from xlm.model.config import XLMConfig
from xlm.model.initialisation import plain_class
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.network import XLMModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.sharded import gather, is_sharded

_REMEDY = (
    "merge adapters and restore replaced modules; save before quantizing; "
    "for an untied head, make the model with share_inout_emb=False"
)


def save_model(model: XLMModel | XLMEncoderDecoderModel, directory: str | PathLike[str]) -> None:
    """Save a model; see ``XLMModel.save_pretrained``."""
    target = as_path("directory", directory)
    state = model.state_dict()
    if not any(is_sharded(tensor) for tensor in state.values() if isinstance(tensor, Tensor)):
        _save(model, state, target)
        return
    is_first = dist.get_rank() == 0
    whole, failures = {}, list[Exception]()
    for name, tensor in state.items():
        gathered = gather(tensor)
        if is_first and not failures:
            with _keeping_errors(failures):
                whole[name] = gathered.cpu()
    if is_first and not failures:
        with _keeping_errors(failures):
            _save(model, whole, target)
    # The others wait until the files exist, or until they know that the first process has failed.
    outcome: list[str | None] = [f"{type(error).__name__}: {error}" for error in failures] or [None]
    dist.broadcast_object_list(outcome, src=0)
    if failures:
        raise failures[0]
    if outcome[0] is not None:
        raise WriteError("the first process could not save the model", where=target, found=outcome[0])


@contextmanager
def _keeping_errors(errors: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        errors.append(error)


def _save(model: XLMModel | XLMEncoderDecoderModel, state: Mapping[str, Tensor], target: Path) -> None:
    config, tensors = _checked(model, state, target)
    make_directory(target)
    write_layout(
        target,
        config,
        tensors,
        model.provenance if isinstance(model.provenance, Provenance) else Provenance(),
        is_encoder_decoder=isinstance(model, XLMEncoderDecoderModel),
        has_head=_kind(model) is not XLMModel,
    )


def _kind(model: XLMModel | XLMEncoderDecoderModel) -> type[Any]:
    """Return the class of this library that ``from_pretrained`` makes from the files of a model."""
    kinds = (XLMEncoderDecoderModel, XLMWithLMHeadModel, XLMModel)
    return next(kind for kind in kinds if isinstance(model, kind))


def _checked(
    model: XLMModel | XLMEncoderDecoderModel, state: Mapping[str, Tensor], target: Path
) -> tuple[XLMConfig, dict[str, Tensor]]:
    """Return the configuration and the weights to write for a model.

    The saved vocabulary size is the number of word embeddings, so an enlarged model is saved with its new size.

    Raises:
        WriteError: ``from_pretrained`` would refuse the saved files, or load a different model from them.
    """
    config = model.config
    is_encoder_decoder = isinstance(model, XLMEncoderDecoderModel)
    words = state.get(f"{'decoder.' if is_encoder_decoder else ''}transformer.embeddings.word.weight")
    if isinstance(words, Tensor) and words.dim() and len(words):
        config = config.replace(vocab_size=len(words))
    if is_encoder_decoder:
        tensors, problems = sort_halves(OURS, state, config)
    else:
        tensors, problems = sort_tensors(OURS, state, config, kind=_kind(model))
    if replaced := _replaced_modules(model, config):
        problems["replaced by another class"] = replaced
    if problems:
        raise WriteError(
            "from_pretrained would not be able to load this model, so nothing was written",
            where=target,
            found=list_problems(problems),
            expected=describe(config),
            remedy=_REMEDY,
        )
    return config, tensors


def _replaced_modules(model: XLMModel | XLMEncoderDecoderModel, config: XLMConfig) -> list[str]:
    """Return the modules that compute something different from those that ``from_pretrained`` would create."""
    kinds = {name: plain_class(module) for name, module in empty_model(config, _kind(model)).named_modules() if name}
    return [
        f"{name} ({type(module).__module__}.{type(module).__name__} instead of {kinds[name].__name__})"
        for name, module in model.named_modules()
        if name in kinds and not _computes_like(type(module), kinds[name])
    ]


def _computes_like(kind: type[nn.Module], expected: type[nn.Module]) -> bool:
    # Wrappers such as FSDP2 replace a module's class by a subclass with the same methods, which is allowed.
    methods = [name for name, value in vars(expected).items() if callable(value) and not name.startswith("__")]
    methods = [name for name in methods if name != "reset_parameters"]  # saved weights are not drawn again
    return issubclass(kind, expected) and all(getattr(kind, name) is getattr(expected, name) for name in methods)


def write_layout(
    directory: Path,
    config: XLMConfig,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    *,
    dtype: torch.dtype | None = None,
    is_encoder_decoder: bool = False,
    has_head: bool = True,
) -> None:
    """Write ``model.safetensors`` and ``config.json``, each atomically, to an existing directory.

    Args:
        directory: The directory.
        config: The architecture.
        tensors: Weights by this library's tensor names.
        provenance: Further contents of ``config.json``.
        dtype: Type of the written weights; ``None`` keeps the type of each tensor.
        is_encoder_decoder: Whether the weights are those of an encoder-decoder.
        has_head: Whether the weights include those of a head.

    Raises:
        WriteError: A file could not be written.
    """
    table = TRANSFORMERS if has_head else HEADLESS
    theirs = {table.theirs(name): tensor for name, tensor in tensors.items()}
    contents = config_to_json(
        config,
        provenance,
        dtype=dtype_name(dtype or weights_dtype(tensors)),
        is_encoder_decoder=is_encoder_decoder,
        has_head=has_head,
    )
    try:
        text = json.dumps(contents, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except (ValueError, TypeError) as error:
        raise WriteError(
            "the configuration cannot be written as JSON", where=directory / CONFIG_FILE, found=error
        ) from error
    with replacing(directory / WEIGHTS_FILE) as temporary:
        write_safetensors(temporary, theirs, dtype=dtype)
    write_text(directory / CONFIG_FILE, text)
