"""Open checkpoints by name or path, and load models from them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from xlm._io.arguments import as_path, check_flags
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.hf_config import read_config
from xlm.checkpoint.hf_weights import read_weights
from xlm.checkpoint.hub import MODEL, HubOptions
from xlm.checkpoint.original import read_original
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.state_dict_map import HALVES, HEADLESS, TRANSFORMERS
from xlm.checkpoint.tensors import empty_model, match_tensors
from xlm.errors import CheckpointError, ConfigError, InputError, warn_caller
from xlm.model.config import XLMConfig
from xlm.model.inputs import check_device_exists
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.network import XLMModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

_Model = TypeVar("_Model", bound=XLMModel)
_Translator = TypeVar("_Translator", bound=XLMEncoderDecoderModel)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Supported types of weights, by name."""


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a supported type of weights, given as a ``torch.dtype`` or by name.

    Raises:
        ConfigError: The type is not float32, float16 or bfloat16.
    """
    parsed = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or parsed not in DTYPES.values():
        raise ConfigError("no such type of weights", where="dtype", found=dtype, expected=" or ".join(DTYPES))
    return parsed


def open_checkpoint(
    name_or_path: str | PathLike[str],
    *,
    causal: bool | None = None,
    has_head: bool = True,
    hub: HubOptions | None = None,
) -> Checkpoint:
    """Open and check a checkpoint, given by name or path. Its weights are memory-mapped, not loaded.

    Args:
        name_or_path: A directory in the ``transformers`` layout, a ``.pth`` file of the original, the name of a bundled
            model, or an id on the hub.
        causal: Whether attention is causal; ``None`` means as in the files.
        has_head: Whether to read the head of a language model. Otherwise, a directory may have any head or none; a
            warning names what is left out.
        hub: Options for fetching from the hub.

    Raises:
        CheckpointError: The checkpoint is missing or invalid.
    """
    path = find_model(name_or_path, MODEL, hub)
    if path.is_dir():
        config, provenance, is_encoder_decoder = read_config(path, causal=causal)
        weights = read_weights(path)
        if is_encoder_decoder:
            tensors = match_tensors(TRANSFORMERS, weights, config, where=path, is_encoder_decoder=True)
        elif has_head:
            _check_head(weights, path)
            tensors = match_tensors(TRANSFORMERS, weights, config, where=path)
        else:
            tensors = match_tensors(HEADLESS, _without_head(weights, path), config, where=path, kind=XLMModel)
        return Checkpoint(
            source=path,
            config=config,
            tensors=tensors,
            provenance=provenance,
            is_encoder_decoder=is_encoder_decoder,
        )
    return read_original(path, causal=causal)


_PREFIX = "transformer."
"""What the names of an ``XLMModel`` begin with in the file of a model that has a head."""


def _check_head(weights: Mapping[str, object], path: Path) -> None:
    """Refuse the weights of a model that has no head of a language model."""
    others = [name for name in weights if not name.startswith(_PREFIX)]
    if others and not any(name.startswith("pred_layer.") for name in others):
        raise CheckpointError(
            "the directory holds no head of a language model",
            where=path,
            found=f"no pred_layer, but {', '.join(sorted(others)[:4])}",
            expected="the weights of an XLMWithLMHeadModel",
            remedy="XLMModel.from_pretrained opens the network without its head",
        )


def _without_head(weights: Mapping[str, Tensor], path: Path) -> Mapping[str, Tensor]:
    """Return the weights of the network alone, under the names of ``HEADLESS``."""
    inside = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
    if not inside:
        return weights
    left_out = sorted(name for name in weights if not name.startswith((_PREFIX, "pred_layer.")))
    if left_out:
        warn_caller(f"{path}: {', '.join(left_out)} are left out, because XLMModel has no such parts")
    return inside


def load_model(
    name_or_path: str | PathLike[str],
    *,
    kind: type[_Model],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    causal: bool | None = None,
    changes: Mapping[str, Any] | None = None,
    hub: HubOptions | None = None,
) -> _Model:
    """Load a model as an object of the class ``kind``; see ``XLMModel.from_pretrained``.

    The head's weights are loaded only for ``XLMWithLMHeadModel`` and its subclasses. ``changes`` are fields of the
    configuration that override those in the file.
    """
    as_path("name_or_path", name_or_path)
    if causal is not None:
        check_flags(causal=causal)
    _check_signature(kind)
    has_head = issubclass(kind, XLMWithLMHeadModel)
    checkpoint = open_checkpoint(name_or_path, causal=causal, has_head=has_head, hub=hub)
    if checkpoint.is_encoder_decoder:
        raise CheckpointError(
            "the checkpoint holds a translation model, not a language model",
            where=checkpoint.source,
            found="an encoder and a decoder",
            expected="one network",
            remedy="load it with XLMEncoderDecoderModel.from_pretrained; its attribute decoder is a language model",
        )
    config = checkpoint.config.replace(**(changes or {}))
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if has_head or not name.startswith("head.")}
    state = _placed(tensors, dtype=dtype, device=device, source=checkpoint.source)
    model: _Model = _filled(kind, config, state, checkpoint)
    return model


def _placed(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype | str | None, device: torch.device | str | None, source: Path
) -> dict[str, Tensor]:
    """Return the weights in the given type on the given device; arguments as for ``from_pretrained``."""
    keeps_dtype = isinstance(dtype, str) and dtype == "auto"
    target_dtype = torch.float32 if dtype is None or keeps_dtype else parse_dtype(dtype)
    if device is not None:
        check_device_exists(device)
    # A training run may rewrite its .pth in place, which would change mapped weights, so these are copied. A
    # safetensors file is replaced as a whole, so its weights can stay mapped until they are written to.
    copy = not source.is_dir()
    return {
        name: tensor.to(device=device or "cpu", dtype=tensor.dtype if keeps_dtype else target_dtype, copy=copy)
        for name, tensor in tensors.items()
    }


def load_encoder_decoder(
    name_or_path: str | PathLike[str],
    *,
    kind: type[_Translator],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    changes: Mapping[str, Any] | None = None,
    hub: HubOptions | None = None,
) -> _Translator:
    """Load a translation model; see ``XLMEncoderDecoderModel.from_pretrained``.

    Args:
        name_or_path: As for ``from_pretrained``.
        kind: Class of the model.
        dtype: As for ``from_pretrained``.
        device: As for ``from_pretrained``.
        changes: Fields of the configuration that override those in the file.
        hub: Options for fetching from the hub.
    """
    as_path("name_or_path", name_or_path)
    _check_signature(kind)
    checkpoint = open_checkpoint(name_or_path, hub=hub)
    if not checkpoint.is_encoder_decoder:
        raise CheckpointError(
            "the checkpoint holds a language model, not a translation model",
            where=checkpoint.source,
            found="one network",
            expected="an encoder and a decoder",
            remedy="XLMEncoderDecoderModel.from_encoder_decoder_pretrained makes a translation model to train from it",
        )
    state = _placed(checkpoint.tensors, dtype=dtype, device=device, source=checkpoint.source)
    model: _Translator = _filled(kind, checkpoint.config.replace(**(changes or {})), state, checkpoint)
    return model


def start_encoder_decoder(
    encoder: str | PathLike[str] | None,
    decoder: str | PathLike[str] | None,
    *,
    kind: type[_Translator],
    changes: Mapping[str, Any] | None = None,
    hub: HubOptions | None = None,
) -> _Translator:
    """Make a translation model; see ``XLMEncoderDecoderModel.from_encoder_decoder_pretrained``."""
    _check_signature(kind)
    starts = {half: name for half, name in zip(HALVES, (encoder, decoder), strict=True) if name is not None}
    if not starts:
        raise InputError(
            "neither half has a checkpoint to start from",
            where="encoder, decoder",
            found="None",
            expected="a checkpoint for at least one half",
            remedy=f"{kind.__name__}(config) makes a model with random weights",
        )
    # The halves know which of them is causal, whatever their checkpoints say.
    names = {str(name): name for name in starts.values()}
    opened = {key: open_checkpoint(name, causal=True, hub=hub) for key, name in names.items()}
    checkpoints = {half: opened[str(name)] for half, name in starts.items()}
    if len(checkpoints) == len(HALVES):
        _check_halves(checkpoints)
    config = next(iter(checkpoints.values())).config.replace(**(changes or {}))
    model = kind(config)
    for half, checkpoint in checkpoints.items():
        prefix = f"{half}." if checkpoint.is_encoder_decoder else ""
        state = {
            f"{half}.{name.removeprefix(prefix)}": tensor.float()
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(prefix)
        }
        # A language model has no attention to a source; the decoder's then keeps its random weights.
        model.load_state_dict(state, strict=False)
    return model.eval()


_FREE_FIELDS = ("causal", "dropout", "attention_dropout", "attn_implementation", "embed_init_std", "lang_id")
"""Fields of the configuration in which the checkpoints of an encoder and a decoder may differ."""


def _check_halves(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Refuse an encoder and a decoder of different architectures, languages or vocabularies."""
    encoder, decoder = (checkpoints[half] for half in HALVES)
    differing = [
        (field.name, getattr(encoder.config, field.name), getattr(decoder.config, field.name))
        for field in dataclasses.fields(XLMConfig)
        if field.name not in _FREE_FIELDS
    ]
    differing = [(name, first, second) for name, first, second in differing if first != second]
    words = _words(encoder), _words(decoder)
    if None not in words and words[0] != words[1]:
        differing.append(("vocabulary", f"{len(words[0] or ()):,} words", f"{len(words[1] or ()):,} other words"))
    if differing:
        raise CheckpointError(
            "the encoder and the decoder do not fit together",
            where=f"{encoder.source}, {decoder.source}",
            found="; ".join(f"{name} = {_plain(first)} and {_plain(second)}" for name, first, second in differing),
            expected="checkpoints of one architecture, with the same languages and vocabulary",
        )


def _plain(value: Any) -> str:
    return repr(dict(value)) if isinstance(value, Mapping) else str(value)


def _words(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """Return the vocabulary of a checkpoint by id; ``None`` if its directory has none."""
    if checkpoint.words is not None:
        return Vocabulary.from_dictionary(checkpoint.words, where=checkpoint.source).tokens
    path = checkpoint.source / VOCABULARY_FILE
    return Vocabulary.from_json(path).tokens if path.is_file() else None


def _check_signature(kind: type[XLMModel | XLMEncoderDecoderModel]) -> None:
    signature = inspect.signature(kind)
    try:
        signature.bind("config")
    except TypeError as error:
        raise ConfigError(
            f"from_pretrained cannot make a {kind.__name__}",
            where=f"{kind.__name__}.__init__",
            found=f"{signature}: {error}",
            expected="an argument config, and defaults for all others",
            remedy="add defaults, or load an XLMWithLMHeadModel and pass it to your class",
        ) from error


def _filled(kind: type[Any], config: XLMConfig, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> Any:
    """Return a model of the class ``kind`` with the weights of a checkpoint, in evaluation mode."""
    model = empty_model(config, kind)
    added = sorted(model.state_dict().keys() - state.keys())
    if added or any(buffer.is_meta for buffer in model.buffers()):
        # No file holds the parameters that a subclass adds, so its __init__ initialises them.
        words = next(tensor for name, tensor in state.items() if name.endswith("embeddings.word.weight"))
        model = kind(config).to(words.device, words.dtype)
    if added:
        warn_caller(f"{checkpoint.source} lacks {', '.join(added)}: these tensors of {kind.__name__} are untrained")
    _assign(model, state, checkpoint.source)
    model.provenance = checkpoint.provenance
    return model.eval()


def _assign(model: XLMModel | XLMEncoderDecoderModel, state: Mapping[str, Tensor], source: Path) -> None:
    expected = model.state_dict()
    wrong = [name for name, tensor in state.items() if name not in expected or expected[name].shape != tensor.shape]
    if wrong:
        raise ConfigError(
            f"{type(model).__name__} lacks parameters for weights in the file",
            where=source,
            found=", ".join(wrong),
            expected="a class that keeps the parameters of this library's models",
            remedy="replace parts of the model after loading",
        )
    model.load_state_dict(state, assign=True, strict=False)
