"""What a run starts from: prepared data, an objective and a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from xlm.checkpoint.load import open_checkpoint
from xlm.checkpoint.original import read_dictionary
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.tensors import empty_model
from xlm.checkpoint.tokenizer_files import has_tokenizer, load_tokenizer
from xlm.data.shards import TOKENIZER_DIRECTORY, Index
from xlm.errors import ConfigError, InputError, VocabularyError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest
from xlm.tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary
from xlm.training.config import TrainConfig
from xlm.training.objectives import Objective
from xlm.training.objectives.clm import CausalLM
from xlm.training.objectives.mixture import Mixture
from xlm.training.processes import Processes, TrainableModel

_OBJECTIVES: dict[str, Callable[..., Objective]] = {"clm": CausalLM, "translation": Mixture}


def open_data(directory: Path) -> tuple[Index, XLMTokenizer]:
    """Return the index and the tokenizer of prepared data.

    Raises:
        InputError: The directory holds no prepared data, or the tokenizer in it is not that of the data.
    """
    index = Index.read(directory)
    tokenizer = load_tokenizer(directory / TOKENIZER_DIRECTORY, preset=None, codes=None)
    if tokenizer_digest(tokenizer) != index.signature:
        raise InputError(
            "the tokenizer beside the shards is not the one that made them",
            where=directory / TOKENIZER_DIRECTORY,
            found=f"signature {tokenizer_digest(tokenizer)}",
            expected=index.signature,
            remedy="prepare the text again, in an empty directory",
        )
    return index, tokenizer


def build_objective(config: TrainConfig, index: Index, tokenizer: XLMTokenizer, processes: Processes) -> Objective:
    """Return the objective that ``config.objectives`` names.

    Raises:
        XLMError: The objective cannot use this data, or these processes.
    """
    name = "translation" if config.is_translation else "clm"
    return _OBJECTIVES[name](config, index, tokenizer, processes)


def build_model(config: TrainConfig, tokenizer: XLMTokenizer, languages: Sequence[str]) -> TrainableModel:
    """Return the model that the run starts from, on the CPU, in float32.

    Args:
        config: Configuration of the run.
        tokenizer: Tokenizer of the data.
        languages: Languages of the data; a new model gets them if the tokenizer names none.

    Raises:
        CheckpointError: ``model.start_from`` is not a model.
        VocabularyError: The vocabulary of ``model.start_from`` differs from that of the data.
    """
    starts = config.model
    torch.manual_seed(config.seed)
    if (starts.start_from and not starts.start_parts) or starts.encoder or starts.decoder:
        return _load_start_model(config, tokenizer)
    lang2id = tokenizer.lang2id or {name: number for number, name in enumerate(sorted(languages))}
    architecture = XLMConfig(
        vocab_size=tokenizer.vocab_size,
        n_langs=len(lang2id),
        lang2id=lang2id,
        **config.model.config_kwargs(),
    )
    if config.is_translation:
        return _without_encoder_head(XLMEncoderDecoderModel(architecture))
    return XLMWithLMHeadModel(architecture)


def _without_encoder_head(model: XLMEncoderDecoderModel) -> XLMEncoderDecoderModel:
    """Freeze the encoder's head, because translation does not use it."""
    model.encoder.head.requires_grad_(False)
    return model


_WORDS = re.compile(r"transformer\.embeddings\.word\.|head\.")
"""Tensors with a row for each word."""


def copy_parts(model: TrainableModel, config: TrainConfig, tokenizer: XLMTokenizer) -> dict[str, Any]:
    """Copy the tensors that ``model.start_parts`` names from ``model.start_from`` into a new model, where they fit.

    Returns:
        ``source``; the names of the tensors that were ``copied``; why others were not, as ``unfit``; and the names of
        the model's tensors that stay ``new``.

    Raises:
        ConfigError: A pattern names no tensor of the checkpoint, or no tensor fits.
        CheckpointError: ``model.start_from`` is not a model.
    """
    source = config.model.start_from
    checkpoint, state = open_checkpoint(source), model.state_dict()
    names = _matching(config.model.start_parts, list(checkpoint.tensors), where="model.start_parts")
    unfit = {}
    tokens = _vocabulary(checkpoint.source)
    has_words = checkpoint.config.vocab_size == tokenizer.vocab_size and tokens in (None, tokenizer.vocabulary.tokens)
    for name in names:
        tensor, theirs, ours = checkpoint.tensors[name], checkpoint.config, model.config
        if name not in state:
            unfit[name] = "the new model has no such tensor"
        elif state[name].shape != tensor.shape:
            unfit[name] = f"its shape is {tuple(tensor.shape)}, and {tuple(state[name].shape)} in the new model"
        elif not has_words and _WORDS.match(name):
            unfit[name] = "it belongs to another vocabulary"
        elif name == "transformer.embeddings.language.weight" and theirs.lang2id and theirs.lang2id != ours.lang2id:
            unfit[name] = "it belongs to other languages"
        elif name == "transformer.embeddings.position.weight" and ours.sinusoidal_embeddings:
            unfit[name] = "the new model computes it: sinusoidal_embeddings = true"
        elif name.startswith("transformer.layers.") and theirs.n_heads != ours.n_heads:
            unfit[name] = f"it belongs to {theirs.n_heads} heads, and the new model has {ours.n_heads}"
        elif name.startswith("transformer.layers.") and theirs.gelu_activation != ours.gelu_activation:
            unfit[name] = f"it belongs to another activation: gelu_activation = {theirs.gelu_activation}"
    copied = [name for name in names if name not in unfit]
    if not copied:
        raise ConfigError(
            "no tensor of the model to start from fits into the new model",
            where="model.start_parts",
            found="; ".join(f"{name}: {why}" for name, why in list(unfit.items())[:3]),
            expected="an architecture and a vocabulary that the tensors fit",
        )
    with torch.no_grad():
        for name in copied:
            state[name].copy_(checkpoint.tensors[name])
    return {"source": source, "copied": copied, "unfit": unfit, "new": [name for name in state if name not in copied]}


def freeze_parameters(model: TrainableModel, config: TrainConfig) -> None:
    """Make the optimiser leave out the parameters whose names match a pattern of ``model.freeze``.

    Raises:
        ConfigError: A pattern matches no parameter, or an objective has nothing left to train.
    """
    patterns = config.model.freeze
    parameters = dict(model.named_parameters())
    for name in _matching(patterns, list(parameters), where="model.freeze"):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ConfigError("every parameter is frozen", where="model.freeze", found=", ".join(patterns))
    # Of a translation model, causal language modelling trains only the decoder.
    decoder = getattr(model, "decoder", model)
    if "clm" in config.kinds and not any(parameter.requires_grad for parameter in decoder.parameters()):
        raise ConfigError(
            "every parameter that clm trains is frozen",
            where="model.freeze",
            found=", ".join(patterns),
            expected="patterns that leave something of the decoder, or objectives without clm",
        )


def _matching(patterns: Sequence[str], names: Sequence[str], *, where: str) -> list[str]:
    """Return the names that match a pattern, in which ``*`` stands for any text.

    Raises:
        ConfigError: A pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)
            raise ConfigError("the pattern matches no name", where=where, found=pattern, expected=", ".join(parts))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def reload_model(config: TrainConfig, directory: Path) -> TrainableModel:
    """Return the model of a checkpoint, on the CPU, in float32.

    Raises:
        CheckpointError: The directory does not hold a model.
    """
    kind = XLMEncoderDecoderModel if config.is_translation else XLMWithLMHeadModel
    model = kind.from_pretrained(directory)
    return _copy(model, model.config)


def _load_start_model(config: TrainConfig, tokenizer: XLMTokenizer) -> TrainableModel:
    model, starts = _open_start_model(config)
    changes = config.model.config_kwargs()
    if not model.config.lang2id and len(tokenizer.lang2id or {}) == model.config.n_langs:
        changes["lang2id"] = tokenizer.lang2id  # the model's file does not name its languages
    for start in starts:
        tokens, expected = _vocabulary(find_model(start)), tokenizer.vocabulary.tokens
        difference = None
        if model.config.vocab_size != tokenizer.vocab_size:
            difference = f"{model.config.vocab_size} tokens", f"the {tokenizer.vocab_size} of {config.data}"
        elif tokens and tokens != expected:
            index = next(index for index, token in enumerate(expected) if token != tokens[index])
            difference = f"id {index} is {tokens[index]!r}", f"{expected[index]!r}, as in {config.data}"
        if difference:
            raise VocabularyError(
                "the vocabulary of the model differs from that of the data",
                where=start,
                found=difference[0],
                expected=difference[1],
                remedy=f"prepare the text with the model's own tokenizer: xlm prepare … --model {start}",
            )
    return _copy(model, model.config.replace(**changes))


def _open_start_model(config: TrainConfig) -> tuple[TrainableModel, list[str]]:
    """Return the model that the run starts from, and the names of its files."""
    start, encoder, decoder = config.model.start_from, config.model.encoder, config.model.decoder
    if not config.is_translation:
        return XLMWithLMHeadModel.from_pretrained(start), [start]
    if not start:
        halves = encoder or None, decoder or None
        model = XLMEncoderDecoderModel.from_encoder_decoder_pretrained(*halves)
        return model, [name for name in (encoder, decoder) if name]
    if open_checkpoint(start).is_encoder_decoder:
        return XLMEncoderDecoderModel.from_pretrained(start), [start]
    return XLMEncoderDecoderModel.from_encoder_decoder_pretrained(start, start), [start]


def _vocabulary(path: Path) -> tuple[str, ...] | None:
    """Return the tokens of a model by id, or None if its directory does not hold them."""
    if path.is_file():
        return Vocabulary.from_dictionary(read_dictionary(path).words, where=path).tokens
    return Vocabulary.from_json(path / VOCABULARY_FILE).tokens if has_tokenizer(path) else None


def _copy(model: TrainableModel, config: XLMConfig) -> TrainableModel:
    """Return a copy of a model, with a different configuration, and with weights that are not mapped from a file."""
    copy: TrainableModel = empty_model(config, type(model))
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return _without_encoder_head(copy) if isinstance(copy, XLMEncoderDecoderModel) else copy
