"""How well a model translates held-out pairs: perplexity, accuracy and BLEU.

Source: the original's ``EncDecEvaluator`` in ``src/evaluation/evaluator.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm._io.atomic import make_directory, write_text
from xlm.data.sentences import Batching, Ids, Sentences, usable
from xlm.data.shards import Index
from xlm.errors import InputError, NonFiniteError, WriteError
from xlm.model.head import target_logprobs
from xlm.model.lm import eval_mode
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.config import TrainConfig
from xlm.training.objectives.translation import Side, TranslationData, language_id, names_of_sides, teacher_forcing
from xlm.training.processes import ModelCaller, Processes, decoding_mode
from xlm.translation.bleu import corpus_bleu, import_bleu
from xlm.translation.translator import translated_text

HYPOTHESES = "translations"
"""Name of the directory for translations, inside the output directory of a run."""

SIGNATURE_FILE = "signature.txt"
"""File in this directory with the settings of BLEU, in the form of ``sacrebleu``."""

SPLITS = ("valid", "test")
"""Splits of held-out pairs. The results on the first decide which model is the best."""

_LOG = logging.getLogger("xlm")


@dataclass(slots=True)
class _Counts:
    """Results of the batches evaluated so far.

    Attributes:
        nats: Sum of the negative log-probabilities of the reference tokens.
        tokens: Number of reference tokens.
        correct: Number of reference tokens to which the model gives the highest score.
        translations: Ids of each translation without ``</s>``, by the index of its pair.
    """

    nats: float = 0.0
    tokens: int = 0
    correct: int = 0
    translations: dict[int, list[int]] = field(default_factory=dict)


class TranslationEvaluation:
    """Evaluates a model on every direction of the held-out pairs ``valid`` and ``test``.

    Args:
        config: The configuration of the run.
        index: Index of the prepared data.
        data: The prepared data.
        tokenizer: Tokenizer of the data.
        processes: Processes that share the batches.
        directions: Source and target of each direction.

    Raises:
        DependencyError: There are pairs to evaluate on, and ``sacrebleu`` is not installed.
        InputError: The two sides of a text do not match line by line, or a shard is damaged.
    """

    def __init__(
        self,
        config: TrainConfig,
        index: Index,
        data: TranslationData,
        tokenizer: XLMTokenizer,
        processes: Processes,
        *,
        directions: Sequence[tuple[str, str]],
    ) -> None:
        self._config, self._tokenizer, self._processes = config, tokenizer, processes
        self._directory = Path(config.output) / HYPOTHESES
        self._cases: dict[tuple[str, str, str], tuple[Sentences, Sentences]] = {}
        for source, target in directions if config.run.evaluate_every else ():
            # Without validation pairs, skip the test pairs too: otherwise they would decide which model is the best.
            splits = [split for split in SPLITS if names_of_sides(source, target)[0] in index.splits.get(split, {})]
            if SPLITS[0] not in splits:
                self._warn("%s-%s is not evaluated: the data has no valid pairs of it", source, target)
                continue
            for split in splits:
                self._cases[split, source, target] = data.pairs(split, source, target)
        if self._cases:
            import_bleu()  # a run without sacrebleu ends here, not at its first evaluation
        self._cases = dict(sorted(self._cases.items(), key=lambda case: SPLITS.index(case[0][0])))

    @property
    def metrics(self) -> Mapping[str, bool]:
        """Names of metrics; each maps to true if a higher value is better. The mean BLEU on ``valid`` is the first."""
        metrics = {"mean_bleu": True} if self._cases else {}
        for split, source, target in self._cases:
            prefix = "" if split == "valid" else f"{split}_"
            direction = f"{source}-{target}"
            metrics |= {f"{prefix}bleu.{direction}": True, f"{prefix}accuracy.{direction}": True}
            metrics[f"{prefix}perplexity.{direction}"] = False
        return metrics

    def check(self, model: XLMEncoderDecoderModel) -> None:
        """Warn of pairs that are left out because the model lacks positions for them.

        Raises:
            InputError: All pairs of a split are left out.
        """
        for (split, source, target), sides in self._cases.items():
            whole, kept = (len(_pairs(sides, longest)) for longest in (None, _longest(model)))
            name = f"{split} {names_of_sides(source, target)[0]}"
            if not kept:
                raise InputError(
                    "no pair can be evaluated",
                    where=f"{self._config.data}, {name}",
                    found=f"{len(sides[0]):,} pairs, each with a side that is empty or too long",
                    expected=f"pairs of 1 to {_longest(model)} tokens, as many as the model has positions for",
                )
            if kept < whole and source < target:  # once for both directions
                self._warn(
                    "%d of %d pairs of %s are not evaluated: they are longer than %d tokens",
                    whole - kept,
                    whole,
                    name,
                    _longest(model),
                )

    def _warn(self, message: str, *values: object) -> None:
        if self._processes.is_first:
            _LOG.warning(message, *values)

    def __call__(self, caller: ModelCaller, *, updates: int) -> dict[str, Any]:
        """Return the metrics, nested by name and direction, the same in all processes.

        The translations and references are written to files in the directory of the run, one sentence a line, and so
        is the signature of BLEU.

        Args:
            caller: Calls functions with the model.
            updates: Number of updates so far, for the names of the files.
        """
        results: dict[str, Any] = {}
        for (split, source, target), sides in self._cases.items():
            counts = caller(self._count, sides, (source, target))
            nats, tokens, correct = self._processes.sums([counts.nats, float(counts.tokens), float(counts.correct)])
            translations = self._processes.merged(counts.translations)
            bleu = self._bleu(f"{split}.{source}-{target}", target, sides[1], translations, updates)
            prefix, direction = "" if split == "valid" else f"{split}_", f"{source}-{target}"
            perplexity = math.exp(min(nats / tokens, 700.0)) if math.isfinite(nats) else math.inf
            for name, value in {"bleu": bleu, "accuracy": 100 * correct / tokens, "perplexity": perplexity}.items():
                results.setdefault(prefix + name, {})[direction] = value
        if "bleu" in results:
            results["mean_bleu"] = sum(results["bleu"].values()) / len(results["bleu"])
        return results

    @torch.no_grad()
    def _count(
        self, model: XLMEncoderDecoderModel, sides: tuple[Sentences, Sentences], languages: tuple[str, str]
    ) -> _Counts:
        """Evaluate this process's share of the batches, and return its counts."""
        source, target = sides
        kept = _pairs(sides, _longest(model))
        batching = Batching(batch_size=self._config.evaluation.batch_size)
        batches = batching.divide(source.lengths[kept] + target.lengths[kept] + 4, None)
        counts = _Counts()
        with eval_mode(model), decoding_mode(model):
            for batch in batches[self._processes.rank :: self._processes.count]:
                indices = kept[batch]
                self._count_batch(model, counts, indices, source.batch(indices), target.batch(indices), languages)
        return counts

    def _count_batch(
        self,
        model: XLMEncoderDecoderModel,
        counts: _Counts,
        indices: Ids,
        source: tuple[Ids, Ids],
        target: tuple[Ids, Ids],
        languages: tuple[str, str],
    ) -> None:
        device, config = model.device, model.config
        read, reference = (
            Side(ids=torch.from_numpy(ids).to(device), lengths=torch.from_numpy(lengths), language=language)
            for (ids, lengths), language in zip((source, target), languages, strict=True)
        )
        hidden_ND, targets_N = teacher_forcing(model, read, reference)
        logits_NV = model.decoder.logits(hidden_ND)
        counts.nats -= float(target_logprobs(logits_NV, targets_N).double().sum())
        counts.tokens += len(targets_N)
        counts.correct += int((logits_NV.argmax(-1) == targets_N).sum())
        beams = self._config.evaluation.num_beams
        try:
            translated: Tensor = model.generate(
                read.ids,
                lengths=read.lengths,
                langs=language_id(config, languages[0]),
                decoder_langs=language_id(config, languages[1]),
                max_length=int(1.5 * int(read.lengths.max()) + 10),
                at_limit="original",
                num_beams=beams,
            )
        except NonFiniteError as error:  # do not raise: the other processes wait for this one, and the run may recover
            _LOG.warning("%d sentences count as not translated: %s", len(indices), error)
            counts.translations |= {index: [] for index in indices.tolist()}
            return
        eos = config.eos_token_id
        for index, row in zip(indices.tolist(), translated.tolist(), strict=True):
            counts.translations[index] = row[1 : row.index(eos, 1)]

    def _bleu(
        self, name: str, language: str, references: Sentences, translations: Mapping[int, list[int]], updates: int
    ) -> float:
        """Return the BLEU of translations, which are given by line number; write them and the references to files."""
        tokenized = self._config.evaluation.bleu == "tokenized"
        lines = sorted(translations)

        def text(ids: list[int]) -> str:
            return translated_text(self._tokenizer, ids, lang=language, tokenized=tokenized)

        hypotheses = [text(translations[line]) for line in lines]
        expected = [text(references.ids(line).tolist()) for line in lines]
        # An unknown word of a reference must match nothing.
        unmatched = "<<unk>>" if tokenized else "\N{REPLACEMENT CHARACTER}"
        expected = [reference.replace("<unk>", unmatched) for reference in expected]
        bleu = corpus_bleu(hypotheses, expected, tokenized=tokenized)
        if self._processes.is_first:
            try:
                make_directory(self._directory)
                for suffix, texts in ((f"{updates:07}", hypotheses), ("reference", expected)):
                    write_text(self._directory / f"{name}.{suffix}.txt", "".join(f"{text}\n" for text in texts))
                write_text(self._directory / SIGNATURE_FILE, f"{bleu.signature}\n")
            except WriteError as error:  # the disk may have room again at the next evaluation
                _LOG.warning("translations could not be saved; the run continues: %s", error)
        return bleu.score


def _longest(model: XLMEncoderDecoderModel) -> int:
    """Return the maximum number of tokens in a sentence, without the ``</s>`` at both ends."""
    return model.config.max_position_embeddings - 2


def _pairs(sides: tuple[Sentences, Sentences], longest: int | None) -> Ids:
    """Return the indices of pairs whose sides are neither empty nor longer than ``longest`` (if given) tokens."""
    return usable([side.lengths for side in sides], longest=longest or 0)
