"""Train one model, with one optimiser, on several objectives in turn.

Source: the original's loop in ``train.py``, ``shuf_order`` in ``src/utils.py`` and ``EncDecTrainer``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from torch import Tensor

from xlm.data.batches import RawNumbers, permutation
from xlm.data.noise import Noise
from xlm.data.sentences import Batching
from xlm.data.shards import Index
from xlm.errors import ConfigError, LanguageError, Problem
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.coefficients import Coefficient
from xlm.training.config import TrainConfig, parse_objective
from xlm.training.objectives import Batch
from xlm.training.objectives.clm import CausalLM
from xlm.training.objectives.evaluation import SPLITS, TranslationEvaluation
from xlm.training.objectives.translation import (
    BackTranslation,
    Denoising,
    PartSettings,
    SentencePart,
    SentenceSharing,
    Supervised,
    TranslationData,
    names_of_sides,
)
from xlm.training.processes import ModelCaller, Processes
from xlm.translation.translator import other_special_tokens

_MOST_STEPS = 5
"""Maximum number of steps of causal language modelling, and of supervised steps, in an iteration.

Source: the original's ``shuf_order``.
"""


class Mixture:
    """The ``Objective`` of an encoder-decoder. It consists of parts, and takes batches from them in turn.

    An iteration takes one batch of causal language modelling for each of its languages, but at most five; then one
    batch from each denoising part in random order; then one batch from each of at most five supervised parts, which are
    drawn with replacement; then one batch from each back-translation part in random order. Each batch is one update.
    The coefficient of a part depends on the iteration; a part whose coefficient is 0 is skipped.

    Args:
        config: The configuration of the run.
        index: Index of the prepared data.
        tokenizer: Tokenizer of the data.
        processes: Processes that share each batch.

    Raises:
        InputError: The data lacks a text, or a text has no sentence to train on.
        ConfigError: The schedule of a coefficient is invalid, or the coefficients of all parts end at 0.
        LanguageError: The tokenizer does not know a language.
        DependencyError: There are held-out pairs, and ``sacrebleu``, which evaluates them, is not installed.
    """

    def __init__(self, config: TrainConfig, index: Index, tokenizer: XLMTokenizer, processes: Processes) -> None:
        self._config, self._index, self._tokenizer = config, index, tokenizer
        parsed = [parse_objective(text) for text in config.objectives]
        self._clm = CausalLM(config, index, tokenizer, processes) if "clm" in config.kinds else None
        named = {language for _, languages in parsed for language in languages}
        self.languages: Sequence[str] = sorted(named.union(self._clm.languages if self._clm else ()))
        for language in self.languages:
            try:
                tokenizer.encode("", lang=language)
            except LanguageError as error:
                error.where = f"objectives, with the tokenizer of {config.data}"
                raise
        kinds = sorted(config.kinds)
        self._coefficients = {
            kind: Coefficient.parse(getattr(config.coefficients, kind), where=f"coefficients.{kind}") for kind in kinds
        }
        if not any(coefficient.last for coefficient in self._coefficients.values()):
            raise ConfigError(
                "the coefficients of all objectives end at 0, so the run would have nothing left to train",
                where=", ".join(f"coefficients.{kind}" for kind in kinds),
                found=", ".join(repr(getattr(config.coefficients, kind)) for kind in kinds),
                expected="one that stays above 0",
            )
        batch, data = config.batch, TranslationData(Path(config.data), index, tokenizer, config.batch)
        settings = PartSettings(
            batching=Batching(
                batch_size=batch.batch_size,
                tokens_per_batch=batch.tokens_per_batch,
                max_batch_size=batch.max_batch_size,
                group_by_size=batch.group_by_size,
            ),
            sharing=SentenceSharing(processes, batch.gradient_accumulation_steps),
            seed=config.seed,
        )
        self._data = data
        self._sentence_parts: list[SentencePart] = []
        for kind, languages in parsed:
            if kind == "ae":
                noise = Noise(
                    **dataclasses.asdict(config.noise),
                    mask_id=tokenizer.mask_token_id,
                    pad_id=tokenizer.pad_token_id,
                )
                self._sentence_parts.append(Denoising(data, languages[0], noise=noise, settings=settings))
            elif kind != "clm":
                class_ = Supervised if kind == "mt" else BackTranslation
                self._sentence_parts.append(class_(data, *languages[:2], settings=settings))
        self._parts: dict[str, CausalLM | SentencePart] = {part.name: part for part in self._sentence_parts}
        if self._clm:
            self._parts["clm"] = self._clm
        self._evaluation = TranslationEvaluation(
            config, index, data, tokenizer, processes, directions=self._directions()
        )

    def _directions(self) -> list[tuple[str, str]]:
        """Return the source and target languages of every direction that a part trains."""
        directions = [part.direction.split("-") for part in self._sentence_parts if part.kind != "ae"]
        return [(source, target) for source, target in sorted({*map(tuple, directions)})]

    @property
    def metrics(self) -> Mapping[str, bool]:
        """BLEU, perplexity and accuracy of each direction, with held-out pairs; then those of ``clm``, if it is a part.

        The mean BLEU is the first.
        """
        return {**self._evaluation.metrics, **(self._clm.metrics if self._clm else {})}

    def identity(self) -> dict[str, Any]:
        """Return the tokenizer's fingerprint, the text's checksums and the settings of evaluation, noise and losses."""
        train = {name for part in self._sentence_parts for name in part.texts}
        held_out = {name for direction in self._directions() for name in names_of_sides(*direction)}
        evaluation = dataclasses.asdict(self._config.evaluation)
        return {
            "tokenizer": self._index.signature,
            "text": self._data.checksums("train", train),
            # The best score so far belongs to this held-out text and these settings.
            "valid": {split: self._data.checksums(split, held_out) for split in SPLITS},
            "evaluation": {name: evaluation[name] for name in ("num_beams", "bleu")},
            "noise": dataclasses.asdict(self._config.noise),
            "coefficients": dataclasses.asdict(self._config.coefficients),
            "clm": self._clm.identity() if self._clm else None,
        }

    def check(self, model: XLMEncoderDecoderModel) -> None:
        """Check that a model knows the languages and special tokens, and has enough positions.

        Raises:
            ConfigError: The model lacks one of these; the error names every problem.
            InputError: All pairs of a held-out split have an empty side or are too long for the model.
        """
        known, longest = model.config.lang2id, model.config.max_position_embeddings
        problems: list[Problem] = [
            ("data", language, f"a language of the model: {', '.join(known)}")
            for language in self.languages
            if model.config.has_language_embeddings and language not in known
        ]
        problems += other_special_tokens(model.config, self._tokenizer)
        max_length = self._config.batch.max_length
        if not 0 < max_length <= longest - 2:
            rule = f"from 1 to {longest - 2}: the model's {longest} positions hold </s> at both ends, too"
            problems.append(("batch.max_length", max_length, rule))
        if problems:
            raise ConfigError.of_values("model, batch and data do not fit together", problems)
        if self._clm:
            self._clm.check(model)
        self._evaluation.check(model)

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        """Yield this process's pieces of each batch, without end.

        Args:
            position: The iteration, the number of its steps already taken, and the position of each part.
        """
        iteration, taken = position.get("iteration", 0), position.get("taken", 0)
        positions: dict[str, Any] = dict(position.get("parts", {}))
        with ExitStack() as stack:
            batches = {
                name: stack.enter_context(closing(part.batches(positions.get(name, {}))))
                for name, part in self._parts.items()
            }
            while True:
                for step, name in enumerate(self._steps(iteration)):
                    weight = self._coefficients[name.partition(":")[0]].at(iteration)
                    if step < taken or weight == 0:
                        continue
                    batch = next(batches[name])
                    positions = {**positions, name: batch.position}
                    yield dataclasses.replace(
                        batch,
                        pieces=[(name, piece) for piece in batch.pieces],
                        position={"iteration": iteration, "taken": step + 1, "parts": positions},
                        weight=weight,
                    )
                iteration, taken = iteration + 1, 0

    def _steps(self, iteration: int) -> list[str]:
        """Return the names of the parts that an iteration takes batches from, in order."""
        steps = ["clm"] * min(len(self._clm.languages), _MOST_STEPS) if self._clm else []
        for kind in ("ae", "mt", "bt"):
            names = [part.name for part in self._sentence_parts if part.kind == kind]
            if kind == "mt":
                numbers = RawNumbers(self._config.seed, "order mt", iteration)
                steps += [names[numbers.integers(0, len(names))] for _ in names[:_MOST_STEPS]]
            else:
                order = permutation(len(names), seed=self._config.seed, purpose=f"order {kind}", number=iteration)
                steps += [names[index] for index in order]
        return steps

    def loss(self, model: XLMEncoderDecoderModel, piece: tuple[str, Any]) -> Tensor:
        """Return the loss of a piece of one of the parts."""
        name, inner = piece
        return self._parts[name].loss(model, inner)

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        """Return the metrics on held-out pairs and those of ``clm`` on held-out text, and write the translations."""
        results = self._evaluation(caller, updates=updates)
        if self._clm and self._clm.metrics:
            of_clm = self._clm.validate(caller, updates=updates)
            results |= {**of_clm, "perplexity": {**results.get("perplexity", {}), **of_clm["perplexity"]}}
        return results
