"""Objectives that teach an encoder-decoder to translate, and what they share.

``Denoising`` (the original's ``ae``), ``BackTranslation`` (``bt``) and ``Supervised`` (``mt``) are parts of a
``Mixture``, which takes turns among them. A part draws its own sentences, in batches of similar length.

Shapes: B sentences, S source tokens, T target tokens, N predicted tokens.

Source: paper section 4.3; the original's ``EncDecTrainer`` in ``src/trainer.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.data.batches import RawNumbers, permutation
from xlm.data.noise import Noise
from xlm.data.sentences import Batching, Ids, Sentences, usable
from xlm.data.shards import Index, ShardSequence
from xlm.errors import InputError, NonFiniteError
from xlm.model.attention import Source
from xlm.model.config import XLMConfig
from xlm.model.loss import head_loss
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.model.transformer import TransformerInputs
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.config import BatchSettings
from xlm.training.objectives import Batch
from xlm.training.processes import Processes, decoding_mode


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Sentences of one language on the device of a model.

    Attributes:
        ids: (B, T) int64 from ``</s>`` to ``</s>``, padded on the right.
        lengths: (B,) int64 on the CPU; they include both ``</s>``.
        language: Name of the sentences' language.
    """

    ids: Tensor
    lengths: Tensor
    language: str

    def inputs(self, config: XLMConfig) -> TransformerInputs:
        """Return the sentences as inputs of a model with this configuration."""
        T, device = self.ids.shape[1], self.ids.device
        positions_1T = torch.arange(T, device=device)[None]
        has_padding = int(self.lengths.min()) < T
        language = language_id(config, self.language)
        return TransformerInputs(
            input_ids=self.ids,
            position_ids=positions_1T,
            langs=None if language is None else torch.full((1, 1), language, device=device),
            valid=positions_1T < self.lengths.to(device)[:, None] if has_padding else None,
        )


def language_id(config: XLMConfig, name: str) -> int | None:
    """Return the id of a language; ``None`` for a model without language embeddings."""
    return config.language_id(name) if config.has_language_embeddings else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The sentences that one process trains on in one forward and backward pass.

    Attributes:
        source: What the encoder reads. ``None`` for back-translation, because the model makes it by translating.
        target: What the decoder learns to produce.
        share: Factor for the loss of this piece. The loss of the batch is the mean of the scaled losses of its pieces.
        longest: Number of tokens in the longest target of the whole batch.
    """

    source: Side | None
    target: Side
    share: float
    longest: int


def translation_loss(model: XLMEncoderDecoderModel, source: Side, target: Side) -> Tensor:
    """Return the mean negative log-probability, in nats, of the target's tokens after the first ``</s>``.

    The ids are not checked, because on a GPU every step would have to wait for the result of the check.

    Returns:
        A scalar in float32 or wider.
    """
    hidden_ND, targets_N = teacher_forcing(model, source, target)
    return head_loss(model.decoder.head, hidden_ND, targets_N)


def teacher_forcing(model: XLMEncoderDecoderModel, source: Side, target: Side) -> tuple[Tensor, Tensor]:
    """Return the decoder's hidden states that predict the target's tokens after the first ``</s>``, and these tokens.

    Returns:
        (N, D) and (N,) int64.
    """
    source_inputs = source.inputs(model.config)
    encoded = model.encoder.transformer(source_inputs).hidden
    states = model.decoder.transformer(target.inputs(model.config), source=Source(encoded, source_inputs.valid))
    # The last token of a row predicts nothing.
    predicts_BT = torch.arange(target.ids.shape[1] - 1) < target.lengths[:, None] - 1
    rows_N, columns_N = predicts_BT.nonzero(as_tuple=True)
    rows_N, columns_N = rows_N.to(target.ids.device), columns_N.to(target.ids.device)
    return states.hidden[rows_N, columns_N], target.ids[rows_N, columns_N + 1]


class SentenceOrder:
    """An endless series of batches of sentences. The seed and a position determine each batch.

    Args:
        lengths: (N,) number of tokens in each sentence, ``</s>`` included; for pairs, the sum of both sides.
        batching: How sentences are divided into batches.
        seed: Seed of the run.
        name: Name of the part of the mixture; each part has its own order.
    """

    def __init__(self, lengths: Ids, batching: Batching, *, seed: int, name: str) -> None:
        self._lengths, self._batching, self._seed, self._name = lengths, batching, seed, name
        self._pass: tuple[int, list[Ids]] = (-1, [])

    def at(self, position: Mapping[str, int]) -> tuple[Ids, dict[str, int]]:
        """Return the indices of the batch at a position, and the position after it."""
        number, batch = position.get("pass", 0), position.get("batch", 0)
        if self._pass[0] != number:
            self._pass = number, self._batching.divide(self._lengths, _Permutations(self._seed, self._name, number))
        batches = self._pass[1]
        cut = _Permutations(self._seed, f"{self._name}, cut {batch}", number)
        after = {"pass": number, "batch": batch + 1} if batch + 1 < len(batches) else {"pass": number + 1, "batch": 0}
        return self._batching.cut(batches[batch], cut), after


class _Permutations:
    """Permutations for one purpose, one after the other."""

    def __init__(self, seed: int, name: str, number: int) -> None:
        self._seed, self._name, self._number, self._drawn = seed, name, number, 0

    def __call__(self, count: int) -> Ids:
        self._drawn += 1
        purpose = f"{self._name}, permutation {self._drawn}"
        return permutation(count, seed=self._seed, purpose=purpose, number=self._number)


class TranslationData:
    """Sentences of prepared data, opened when a part of the mixture asks for them.

    Args:
        directory: Directory of prepared data.
        index: Index of the prepared data.
        tokenizer: Tokenizer of the prepared data.
        batch: Settings of the batches.
    """

    def __init__(self, directory: Path, index: Index, tokenizer: XLMTokenizer, batch: BatchSettings) -> None:
        self._directory, self._index, self._tokenizer, self._batch = directory, index, tokenizer, batch
        self._opened: dict[tuple[str, str], Sentences] = {}

    def sentences(self, split: str, name: str) -> Sentences:
        """Return the sentences of a text.

        Args:
            split: ``train``, ``valid`` or another split.
            name: A language, such as ``de``, or one side of pairs, such as ``de-en.de``.

        Raises:
            InputError: There is no such text, it is not fully prepared, or a shard is damaged.
        """
        if (split, name) not in self._opened:
            text = self._index.splits.get(split, {}).get(name)
            if text is None or not text.complete:
                raise InputError(
                    "the prepared data lacks a text",
                    where=self._directory,
                    found=f"{split} {name}: {'not there' if text is None else 'not fully prepared'}",
                    expected=f"all of {split} {name}",
                    remedy=f"xlm prepare … --{split} {_argument(name)}",
                )
            sequence = ShardSequence(
                self._directory,
                text.shards,
                dtype=self._index.dtype,
                vocab_size=self._index.vocab_size,
                check=self._batch.verify_checksums,
            )
            eos_id, pad_id = self._tokenizer.sep_token_id, self._tokenizer.pad_token_id
            self._opened[split, name] = Sentences(sequence, eos_id=eos_id, pad_id=pad_id)
        return self._opened[split, name]

    def pairs(self, split: str, first: str, second: str) -> tuple[Sentences, Sentences]:
        """Return the two sides of a parallel text, in the order of the arguments.

        Raises:
            InputError: As for ``sentences``, or the sides do not match line by line.
        """
        names = names_of_sides(first, second)
        sides = self.sentences(split, names[0]), self.sentences(split, names[1])
        texts = self._index.splits[split]
        lines = [texts[name].lines for name in names]
        if not len(sides[0]) == len(sides[1]) == lines[0] == lines[1]:
            raise InputError(
                "the sides of a parallel text do not match line by line",
                where=f"{self._directory}, {split} {names[0]} and {names[1]}",
                found=f"{len(sides[0]):,} sentences in {lines[0]:,} lines of {first}, "
                f"{len(sides[1]):,} in {lines[1]:,} of {second}",
                expected="as many of each: a line holds one sentence, without </s>, and that of the same number in the "
                "other file its translation",
                remedy="correct the files, and prepare them in an empty directory",
            )
        return sides

    def checksums(self, split: str, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the checksums of the named texts, by name. Texts that the data lacks are left out."""
        texts = self._index.splits.get(split, {})
        return {name: [shard.sha256 for shard in texts[name].shards] for name in sorted(names) if name in texts}

    def usable(self, *sides: Sentences, what: str) -> Ids:
        """Return the indices of sentences to train on: those that are neither empty nor too long.

        Raises:
            InputError: There are no such sentences.
        """
        kept = usable([side.lengths for side in sides], longest=self._batch.max_length)
        if not len(kept):
            raise InputError(
                "there are no sentences to train on",
                where=f"{self._directory}, train {what}",
                found=f"{len(sides[0]):,} lines, all of them empty or too long",
                expected=f"sentences of 1 to batch.max_length = {self._batch.max_length} tokens",
            )
        return kept


def names_of_sides(first: str, second: str) -> tuple[str, str]:
    """Return the names of the two sides of a parallel text, such as ``de-en.en`` and ``de-en.de``."""
    pair = "-".join(sorted((first, second)))
    return f"{pair}.{first}", f"{pair}.{second}"


def _argument(name: str) -> str:
    pair = name.partition(".")[0]
    return f"{pair}=FILE,FILE" if "-" in pair else f"{name}=FILE"


class SentenceSharing:
    """Divides batches of sentences among processes and pieces.

    Args:
        processes: Processes of the run.
        pieces: Number of pieces that each process takes one after the other.
    """

    def __init__(self, processes: Processes, pieces: int) -> None:
        self._processes, self._pieces = processes, pieces

    def divide(
        self, target: tuple[Ids, Ids], source: tuple[Ids, Ids] | None, *, languages: tuple[str, str]
    ) -> list[Piece]:
        """Return this process's pieces of a batch.

        Args:
            target: (B, T) ids and (B,) lengths of the sentences that the decoder learns to produce.
            source: Ids and lengths of the sentences that the encoder reads; ``None`` if the model makes them.
            languages: Languages of source and target.
        """
        count = self._processes.count * self._pieces
        total = int((target[1] - 1).sum())
        mine = range(self._processes.rank * self._pieces, (self._processes.rank + 1) * self._pieces)
        parts = np.array_split(np.arange(len(target[1])), count)
        pieces = []
        for number in mine:
            # All processes take equally many pieces. If a piece gets no sentence, it takes the first with share 0.
            rows = parts[number] if len(parts[number]) else np.zeros(1, np.int64)
            tokens = int((target[1][parts[number]] - 1).sum())
            pieces.append(
                Piece(
                    source=None if source is None else self._side(source, rows, languages[0]),
                    target=self._side(target, rows, languages[1]),
                    share=tokens * count / total,
                    longest=int(target[1].max()),
                )
            )
        return pieces

    def _side(self, side: tuple[Ids, Ids], rows: Ids, language: str) -> Side:
        lengths_B = torch.from_numpy(side[1][rows])
        ids_BT = torch.from_numpy(side[0][rows, : int(lengths_B.max())])
        return Side(ids=ids_BT.to(self._processes.device), lengths=lengths_B, language=language)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSettings:
    """What all parts with sentences share.

    Attributes:
        batching: How sentences are divided into batches.
        sharing: How batches are divided among processes and pieces.
        seed: Seed of the run.
    """

    batching: Batching
    sharing: SentenceSharing
    seed: int


class SentencePart(ABC):
    """A part of a ``Mixture`` that draws its own sentences or pairs, in batches of similar length.

    Attributes:
        kind: ``ae``, ``bt`` or ``mt``.
        name: Name of the part in the configuration, such as ``bt:de-en-de``.
        direction: Language, or direction of translation, that the log names.
        texts: Names of the texts that the part trains on.

    Args:
        name: Name of the part.
        sides: Sentences by the name of their text: one text, or the two sides of pairs.
        languages: Languages that the encoder reads and the decoder produces.
        data: The prepared data.
        settings: What all parts share.
    """

    kind: str

    def __init__(
        self,
        name: str,
        sides: Mapping[str, Sentences],
        *,
        languages: tuple[str, str],
        data: TranslationData,
        settings: PartSettings,
    ) -> None:
        self.name, self.texts = name, list(sides)
        self.direction = "-".join(languages if languages[0] != languages[1] else languages[:1])
        self._sides, self._languages, self._settings = list(sides.values()), languages, settings
        self._usable = data.usable(*self._sides, what=" and ".join(sides))
        lengths: Ids = np.sum([side.lengths[self._usable] + 2 for side in self._sides], axis=0)
        self._order = SentenceOrder(lengths, settings.batching, seed=settings.seed, name=name)

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        """Yield this process's pieces of each batch, without end, as ``Objective.batches`` does."""
        while True:
            indices, after = self._order.at(position)
            source, target = self._task([side.batch(self._usable[indices]) for side in self._sides], position)
            yield Batch(
                pieces=self._settings.sharing.divide(target, source, languages=self._languages),
                tokens=int((target[1] - 1).sum()),
                objective=self.kind,
                language=self.direction,
                position=after,
            )
            position = after

    @abstractmethod
    def _task(
        self, sides: list[tuple[Ids, Ids]], position: Mapping[str, Any]
    ) -> tuple[tuple[Ids, Ids] | None, tuple[Ids, Ids]]:
        """Return source and target of a batch; ``None`` for a source that the model makes.

        Args:
            sides: Ids and lengths of the sentences of each text.
            position: Position of the batch.
        """

    def loss(self, model: XLMEncoderDecoderModel, piece: Piece) -> Tensor:
        """Return the ``translation_loss`` of a piece."""
        assert piece.source is not None
        return translation_loss(model, piece.source, piece.target) * piece.share


class Denoising(SentencePart):
    """Reproduce a sentence from a noised copy of it.

    Source: paper section 4.3 through Lample et al. 2018; the original's ``mt_step`` with equal languages.
    """

    kind = "ae"

    def __init__(self, data: TranslationData, language: str, *, noise: Noise, settings: PartSettings) -> None:
        sides = {language: data.sentences("train", language)}
        super().__init__(f"ae:{language}", sides, languages=(language, language), data=data, settings=settings)
        self._noise = noise

    def _task(
        self, sides: list[tuple[Ids, Ids]], position: Mapping[str, Any]
    ) -> tuple[tuple[Ids, Ids], tuple[Ids, Ids]]:
        (clean,) = sides
        purpose = f"{self.name}, noise {position.get('batch', 0)}"
        return self._noise.apply(*clean, RawNumbers(self._settings.seed, purpose, position.get("pass", 0))), clean


class Supervised(SentencePart):
    """Translate the source sentence of a pair; the target is the other sentence of the pair.

    Source: the original's ``mt_step``.
    """

    kind = "mt"

    def __init__(self, data: TranslationData, source: str, target: str, *, settings: PartSettings) -> None:
        sides = dict(zip(names_of_sides(source, target), data.pairs("train", source, target), strict=True))
        super().__init__(f"mt:{source}-{target}", sides, languages=(source, target), data=data, settings=settings)

    def _task(
        self, sides: list[tuple[Ids, Ids]], position: Mapping[str, Any]
    ) -> tuple[tuple[Ids, Ids], tuple[Ids, Ids]]:
        source, target = sides
        return source, target


class BackTranslation(SentencePart):
    """Reproduce a sentence from the model's own translation of it.

    The model translates greedily, in evaluation mode and without gradients. A translation has at most 1.3 times as many
    tokens as the longest sentence of the batch, plus 5; if it is cut there, its last token is ``</s>``.

    Source: paper section 4.3 through Lample et al. 2018; the original's ``bt_step``.
    """

    kind = "bt"

    def __init__(self, data: TranslationData, language: str, other: str, *, settings: PartSettings) -> None:
        sides = {language: data.sentences("train", language)}
        name = f"bt:{language}-{other}-{language}"
        super().__init__(name, sides, languages=(other, language), data=data, settings=settings)

    def _task(self, sides: list[tuple[Ids, Ids]], position: Mapping[str, Any]) -> tuple[None, tuple[Ids, Ids]]:
        return None, sides[0]

    def loss(self, model: XLMEncoderDecoderModel, piece: Piece) -> Tensor:
        """Return the ``translation_loss`` of the sentences given the model's translations of them.

        If the model cannot translate, because its scores are not finite, the loss is not finite either.
        """
        try:
            source = back_translate(model, piece.target, self._languages[0], longest=piece.longest)
        except NonFiniteError:
            # The other processes wait for a gradient from this one. Its NaN then makes the run skip the step.
            return translation_loss(model, piece.target, piece.target) * math.nan
        return translation_loss(model, source, piece.target) * piece.share


def back_translate(
    model: XLMEncoderDecoderModel, sentences: Side, language: str, *, longest: int | None = None
) -> Side:
    """Return the greedy translations of sentences, as the original's back-translation makes them.

    Args:
        model: The model, in any mode.
        sentences: The sentences.
        language: Language to translate to.
        longest: Number of tokens in the longest sentence of the batch; ``None`` if the sentences are the whole batch.

    Raises:
        NonFiniteError: The model's scores are not finite.
    """
    if longest is None:
        longest = int(sentences.lengths.max())
    with decoding_mode(model):
        ids_BT = model.generate(
            sentences.ids,
            lengths=sentences.lengths,
            langs=language_id(model.config, sentences.language),
            decoder_langs=language_id(model.config, language),
            # The encoder reads the translation, so each token needs a position.
            max_length=min(int(1.3 * longest + 5), model.config.max_position_embeddings),
            at_limit="original",
        )
    # In some versions of torch, the cache of autocast now holds weights that were converted without gradients.
    torch.clear_autocast_cache()
    # Each translation ends with its second </s>.
    lengths_B = ((ids_BT == model.config.eos_token_id).cumsum(1) < 2).sum(1) + 1
    return Side(ids=ids_BT, lengths=lengths_B.cpu(), language=language)
