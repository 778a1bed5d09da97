"""What a run begins with: the model on its data, checked against each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from xlm.checkpoint.names import find_model
from xlm.checkpoint.original import read_dictionary
from xlm.checkpoint.tensors import empty_model
from xlm.checkpoint.tokenizer_files import VOCABULARY_FILE, has_tokenizer, load_tokenizer
from xlm.data.batches import open_streams
from xlm.data.shards import TOKENIZER_DIRECTORY, Index
from xlm.errors import ConfigError, InputError, Problem, VocabularyError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.stream import Stream
from xlm.tokenizer.fingerprint import tokenizer_digest
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.config import RunSettings, TrainConfig
from xlm.training.loss import stream_loss
from xlm.training.processes import Processes
from xlm.training.sharding import share_out


def open_data(config: TrainConfig) -> tuple[Index, XLMTokenizer, dict[str, Stream], dict[str, Stream]]:
    """Index, tokenizer, and the streams to train and to evaluate on; those to evaluate on may be none.

    Raises:
        InputError: The data is not what its index says, or smaller than one batch.
    """
    directory = Path(config.data)
    index = Index.read(directory)
    tokenizer = load_tokenizer(directory / TOKENIZER_DIRECTORY, preset=None, codes=None)
    if tokenizer_digest(tokenizer) != index.signature:
        raise InputError(
            "The tokenizer beside the shards is not the one that made them",
            where=directory / TOKENIZER_DIRECTORY,
            found=f"signature {tokenizer_digest(tokenizer)}",
            expected=index.signature,
            remedy="prepare the text again, in an empty directory",
        )
    rows, width, check = config.batch.rows, config.batch.width, config.batch.check
    train = open_streams(directory, index, "train", rows=rows, width=width, check=check)
    for language, stream in train.items():
        if len(stream.sequence) < rows * width:
            raise InputError(
                "The text is smaller than one batch",
                where=f"{directory}, train {language}",
                found=f"{len(stream.sequence):,} tokens",
                expected=f"at least batch.rows * batch.width = {rows * width:,}",
                remedy="make the batch smaller, or take more text",
            )
    wants_valid = config.run.evaluate_every > 0 and "valid" in index.splits
    valid = open_streams(directory, index, "valid", rows=1, width=width, check=check) if wants_valid else {}
    for language in valid:
        tokenizer.encode("", lang=language)
    return index, tokenizer, train, valid


def build_model(config: TrainConfig, tokenizer: XLMTokenizer, languages: list[str]) -> XLMWithLMHeadModel:
    """The model that the run begins with, on the CPU, in float32.

    Args:
        config: Says whether it is a new one.
        tokenizer: That of the data.
        languages: Those of the data.

    Raises:
        ConfigError: Model, batch and data do not fit each other.
        CheckpointError: ``model.start_from`` is no model.
        VocabularyError: It has another vocabulary than the data.
    """
    if config.model.start_from:
        model = _model_to_train_on(config, tokenizer)
    else:
        lang2id = tokenizer.lang2id or {name: number for number, name in enumerate(sorted(languages))}
        torch.manual_seed(config.seed)
        model = XLMWithLMHeadModel(
            XLMConfig(
                vocab_size=tokenizer.vocab_size,
                n_langs=len(lang2id),
                lang2id=lang2id,
                **config.model.given(),
            )
        )
    known = model.config.lang2id
    problems: list[Problem] = [
        ("data", language, f"a language of the model: {', '.join(known)}")
        for language in languages
        if language not in known
    ]
    if config.batch.width > model.config.max_position_embeddings:
        longest = model.config.max_position_embeddings
        problems.append(("batch.width", config.batch.width, f"at most the model's {longest} positions"))
    if not model.config.causal:
        problems.append(("model.start_from", config.model.start_from, "a causal model"))
    if problems:
        raise ConfigError.of_values("model, batch and data do not fit each other", problems)
    return model


def _model_to_train_on(config: TrainConfig, tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    start = config.model.start_from
    path = find_model(start)
    model = XLMWithLMHeadModel.from_pretrained(path)
    changes = config.model.given()
    if not model.config.lang2id and len(tokenizer.lang2id or {}) == model.config.n_langs:
        changes["lang2id"] = tokenizer.lang2id  # a file that does not name its languages
    vocabulary = _vocabulary(path)
    if model.config.vocab_size != tokenizer.vocab_size or (vocabulary and vocabulary != tokenizer.vocabulary.tokens):
        raise VocabularyError(
            "The model has another vocabulary than the data",
            where=start,
            found=f"{model.config.vocab_size} tokens",
            expected=f"the {tokenizer.vocab_size} of {config.data}",
            remedy=f"prepare the text with the model's own tokenizer: xlm prepare … --model {start}",
        )
    return with_weights_of(model, model.config.replace(**changes))


def _vocabulary(path: Path) -> tuple[str, ...] | None:
    """The tokens of a model by id; None where its directory does not hold them."""
    if path.is_file():
        return Vocabulary.from_dictionary(read_dictionary(path).words, where=path).tokens
    return Vocabulary.from_json(path / VOCABULARY_FILE).tokens if has_tokenizer(path) else None


def with_weights_of(model: XLMWithLMHeadModel, config: XLMConfig) -> XLMWithLMHeadModel:
    """A model of that configuration with weights of its own, equal to those of another, whose file may vanish."""
    copy = empty_model(config)
    copy.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    return copy


class LossModule(nn.Module):
    """The loss as a module's forward, which is what several processes wrap."""

    def __init__(self, model: XLMWithLMHeadModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, language: int) -> torch.Tensor:
        """``stream_loss`` of the model."""
        return stream_loss(self.model, input_ids, language)


def distributed(loss: LossModule, run: RunSettings, processes: Processes) -> nn.Module:
    """Brings a model to its device and its processes.

    Args:
        loss: Of the model, which is on the CPU and the same in all processes.
        run: Says how.
        processes: Of the run.

    Returns:
        What steps call, perhaps a wrapper of ``loss``.

    Raises:
        ConfigError: Weights are to be shared out that cannot be.
    """
    model = loss.model
    if run.activation_checkpointing:
        _recompute_layers(model)
    if processes.count > 1 and run.sharding == "full":
        if model.config.asm:  # where a tail cluster is left alone in some processes, the others would wait for them
            raise ConfigError(
                "an adaptive softmax cannot be shared out", where="run.sharding", found=run.sharding, expected="none"
            )
        if run.compile:
            for layer in model.transformer.layers:
                layer.compile()
        share_out(loss, model, processes)
        return loss
    model.to(processes.device)
    if run.compile:
        model.transformer.compile()
    if processes.count == 1:
        return loss
    # An adaptive softmax leaves a tail cluster alone when none of its words is to be predicted.
    return DistributedDataParallel(loss, find_unused_parameters=model.config.asm)


def _recompute_layers(model: XLMWithLMHeadModel) -> None:
    """Makes each layer keep its input only, and compute what is inside it again in the backward pass."""
    for layer in model.transformer.layers:
        forward: Any = partial(checkpoint, layer.forward, use_reentrant=False)
        object.__setattr__(layer, "forward", forward)
