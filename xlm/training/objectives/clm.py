"""Causal language modelling: predict the next token, in windows of running text.

Source: the original's ``clm_step`` and ``evaluate_clm``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.data.batches import Order, Position, batches, monolingual_texts, open_streams
from xlm.data.shards import Index
from xlm.errors import ConfigError, InputError, Problem
from xlm.model.loss import head_loss
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.transformer import TransformerInputs
from xlm.scoring.stream import Stream
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.config import TrainConfig, parse_objective
from xlm.training.objectives import Batch
from xlm.training.processes import ModelCaller, Processes, TrainableModel


class CausalLM:
    """Objective of a causal language model, or of the decoder of a translation model.

    Each batch is one window of one language. The decoder reads it without a source.

    Args:
        config: The configuration of the run.
        index: Index of the prepared data.
        tokenizer: Tokenizer of the data.
        processes: Processes that share each batch.

    Raises:
        ConfigError: The processes cannot share a batch evenly.
        InputError: The data lacks a language, does not match its index, or is smaller than one batch.
        LanguageError: The tokenizer does not know a language of the held-out text.
    """

    def __init__(self, config: TrainConfig, index: Index, tokenizer: XLMTokenizer, processes: Processes) -> None:
        batch = config.batch
        pieces = processes.count * batch.gradient_accumulation_steps
        if batch.batch_size % pieces:
            raise ConfigError(
                "the processes cannot share a batch evenly",
                where="batch.batch_size",
                found=batch.batch_size,
                expected=f"a multiple of {processes.count} processes * batch.gradient_accumulation_steps = {pieces}",
            )
        self._config, self._index, self._processes = config, index, processes
        data, parsed = Path(config.data), [parse_objective(text) for text in config.objectives]
        self._named = [language for kind, languages in parsed if kind == "clm" for language in languages]
        opened = partial(open_streams, data, index, seq_len=batch.seq_len, check=batch.verify_checksums)
        self._train = opened("train", batch_size=batch.batch_size, languages=self._named)
        for language, stream in self._train.items():
            if len(stream.sequence) < batch.batch_size * batch.seq_len:
                raise InputError(
                    "the text is smaller than one batch",
                    where=f"{data}, train {language}",
                    found=f"{len(stream.sequence):,} tokens",
                    expected=f"at least batch.batch_size * batch.seq_len = {batch.batch_size * batch.seq_len:,}",
                    remedy="use a smaller batch or more text",
                )
        self._valid: dict[str, Stream] = {}
        if config.run.evaluate_every and (held_out := monolingual_texts(index, "valid", self._named)):
            self._valid = opened("valid", batch_size=1, languages=held_out)
        for language in self._valid:
            tokenizer.encode("", lang=language)

    @property
    def languages(self) -> Sequence[str]:
        """Languages of the training text."""
        return list(self._train)

    @property
    def metrics(self) -> Mapping[str, bool]:
        """The mean perplexity and the perplexity of each language; lower is better."""
        names = [f"perplexity.{language}" for language in self._valid]
        return dict.fromkeys(["mean", *names] if names else [], False)

    def identity(self) -> dict[str, Any]:
        """Return the fingerprint of the tokenizer and the checksums of the text."""
        train, valid = (
            {
                language: [shard.sha256 for shard in text.shards]
                for language, text in monolingual_texts(self._index, split, self._named).items()
            }
            for split in ("train", "valid")
        )
        # The held-out text is part of the identity, because the best score so far belongs to it.
        return {"tokenizer": self._index.signature, "text": train, "valid": valid}

    def check(self, model: TrainableModel) -> None:
        """Check that a model is causal, knows the languages and has enough positions.

        Raises:
            ConfigError: One of these conditions does not hold; the error names every problem.
        """
        known, longest = model.config.lang2id, model.config.max_position_embeddings
        seq_len, start_from = self._config.batch.seq_len, self._config.model.start_from
        problems: list[Problem] = [
            ("data", language, f"a language of the model: {', '.join(known)}")
            for language in self.languages
            if language not in known
        ]
        if seq_len > longest:
            problems.append(("batch.seq_len", seq_len, f"at most the model's {longest} positions"))
        if not model.config.causal:
            problems.append(("model.start_from", start_from, "a causal model"))
        if problems:
            raise ConfigError.of_values("model, batch and data do not fit together", problems)

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        """Yield this process's rows of each window, without end, reading one batch ahead.

        Args:
            position: A ``Position`` as JSON, or empty for the beginning.
        """
        batch = self._config.batch
        order = Order(
            windows={language: len(stream) for language, stream in self._train.items()},
            seed=self._config.seed,
            exponent=batch.sampling_exponent,
            shuffle=batch.shuffle,
        )
        rows = batch.batch_size // self._processes.count
        first_row = rows * self._processes.rank
        with closing(batches(self._train, order, Position(**position), first_row=first_row, rows=rows)) as windows:
            for window in windows:
                input_ids = torch.from_numpy(window.input_ids).to(self._processes.device, non_blocking=True)
                yield Batch(
                    pieces=[(piece, window.language) for piece in input_ids.chunk(batch.gradient_accumulation_steps)],
                    tokens=batch.batch_size * (batch.seq_len - 1),
                    objective="clm",
                    language=window.language,
                    position=dataclasses.asdict(window.position),
                )

    def loss(self, model: TrainableModel, piece: tuple[Tensor, str]) -> Tensor:
        """Return the ``stream_loss`` of some rows of a window.

        Args:
            model: The model.
            piece: (rows, W) ids, and their language.
        """
        input_ids, language = piece
        return stream_loss(model, input_ids, model.config.language_id(language))

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        """Return the perplexity of each language, and their mean.

        Args:
            caller: Calls functions with the model.
            updates: Unused.
        """
        perplexity = stream_perplexities(caller, self._valid, processes=self._processes)
        return {"perplexity": perplexity, "mean": sum(perplexity.values()) / len(perplexity)}


def stream_loss(model: TrainableModel, input_ids: Tensor, language: int) -> Tensor:
    """Return the mean negative log-probability, in nats, of tokens 2 … T of each row.

    Args:
        model: A causal model, with a linear or an adaptive head; or a translation model, whose decoder is such a model.
        input_ids: (B, T) int64 on the model's device, ids from 0 to V - 1, without padding. The ids are not checked,
            because on a GPU every step would have to wait for the result of the check.
        language: Language id of all tokens.

    Returns:
        A scalar in float32 or wider.
    """
    if isinstance(model, XLMEncoderDecoderModel):
        model = model.decoder
    states = model.transformer(
        TransformerInputs(
            input_ids=input_ids,
            position_ids=torch.arange(input_ids.shape[1], device=input_ids.device)[None],
            langs=torch.full((1, 1), language, device=input_ids.device),
        )
    )
    # The last position predicts nothing, so its hidden state is dropped before the scores are computed.
    hidden_ND, targets_N = states.hidden[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten()
    return head_loss(model.head, hidden_ND, targets_N)


@torch.no_grad()
def stream_perplexities(
    caller: ModelCaller, streams: Mapping[str, Stream], *, processes: Processes, rows: int = 16
) -> dict[str, float]:
    """Return the perplexity of each language's stream by the original's protocol.

    Args:
        caller: Calls the loss on the model in evaluation mode. Afterwards, the model is back in its previous mode.
        streams: Streams of one row, by language; the model sees one window at a time.
        processes: Processes that share the windows.
        rows: Windows in a batch.

    Returns:
        For each language, ``exp`` of the mean negative log-probability of the predicted tokens.
    """
    was_training = caller.training
    caller.eval()
    try:
        return {language: _perplexity(caller, language, streams[language], processes, rows) for language in streams}
    finally:
        caller.train(was_training)


def _perplexity(caller: ModelCaller, language: str, stream: Stream, processes: Processes, rows: int) -> float:
    assert stream.rows == 1
    mine = range(processes.rank, len(stream), processes.count)
    nats = predicted = 0.0
    # With sharded weights, all processes must take part in every batch. So each computes as many batches as the first
    # process, which has the most.
    for begin in range(0, len(range(0, len(stream), processes.count)), rows):
        indices = mine[begin : begin + rows]
        windows = np.concatenate([stream.window(index) for index in indices or [0]])
        input_ids = torch.from_numpy(windows).to(processes.device)
        loss: Tensor = caller(stream_loss, input_ids, caller.model.config.language_id(language))
        count = len(indices) * (stream.width - 1)
        nats += float(loss) * count
        predicted += count
    nats, predicted = processes.sums([nats, predicted])
    return math.exp(min(nats / predicted, 700.0)) if math.isfinite(nats) else math.inf
