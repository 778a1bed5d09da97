"""Tasks that workers perform on windows of rows: scoring, tokenizing, generating and translating."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xlm._io.arguments import check_count
from xlm._io.memory import limit_onednn_cache
from xlm._version import __version__
from xlm.corpus.read_ahead import READ_AHEAD
from xlm.corpus.rows import Row
from xlm.corpus.tables import OutputLines
from xlm.errors import InputError, XLMError
from xlm.generation.text_generator import GeneratedText, Prompt, TextGenerator, check_one_line, decoding_options
from xlm.inference.loading import Network
from xlm.model.decoding.options import derived_seed
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.scoring.layout import Layout
from xlm.scoring.options import ScoringOptions
from xlm.scoring.scorer import Scorer
from xlm.scoring.signature import ModelSource, Signature
from xlm.scoring.table import ScoreTable, scored_lines
from xlm.tokenizer.batches import written_lines
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest
from xlm.translation.table import TranslationTable, translated_lines
from xlm.translation.translator import TranslationOptions, Translator


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerModel(ModelSource):
    """A model that every worker can open by its name.

    Attributes:
        lang: Name of the language of the texts.
        threads: Number of torch threads; ``None`` for the number that Ray sets, one for each CPU of the worker.
    """

    lang: str
    threads: int | None = None

    def network(self, kind: type[Network]) -> Network:
        """Set the number of threads, and open the model as stored; errors are as for ``ModelSource``."""
        limit_onednn_cache()
        if self.threads is not None:
            check_count(threads=self.threads)
            torch.set_num_threads(self.threads)
        return ModelSource.network(self, kind)

    def here(self) -> WorkerModel:
        """Return a copy with which the driver opens the model: on the CPU, with the threads of this process."""
        return dataclasses.replace(self, device="cpu", threads=None)

    def identity(self, signature: Signature) -> dict[str, Any]:
        """Return the signature of the workers as text and as fields, from that of the driver or of a worker."""
        signature = dataclasses.replace(signature, device=self.device or signature.device)
        return {"signature": str(signature), **asdict(signature)}


Compute = Callable[[Sequence[Row], int], OutputLines]
"""Function that returns the lines of a window, given its rows and the index of their input file."""

Groups = Callable[..., Iterator[list[Row]]]
"""Function that divides the rows of a file into groups; its argument ``warn`` takes warnings."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """The computation of a run. A task is sent to the workers, and loads nothing until ``start`` is called.

    Attributes:
        model: The model.
        read_at_once: Maximum number of rows in a window.
    """

    model: WorkerModel
    read_at_once: int = READ_AHEAD

    @property
    @abstractmethod
    def suffix(self) -> str:
        """Suffix of the parts' names."""

    @property
    def header(self) -> bytes:
        """The first line of each part, with its line end; empty if parts have none."""
        return b""

    @property
    def whole(self) -> bool:
        """Whether rows must have all of their cells, as for ``Corpus``."""
        return False

    @property
    def groups(self) -> Groups | None:
        """Divides the rows of a file into groups that a window must not split; ``None`` for no groups."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return everything that the output depends on besides the input, and check the options on the driver.

        Raises:
            XLMError: There is no such model, language or option.
        """
        return {**self._load(self.model.here())[0], **self._settings()}

    def start(self, identity: Mapping[str, Any]) -> Compute:
        """Load everything, once in each worker, and return the function that computes windows.

        Args:
            identity: What ``identity`` returned on the driver.

        Raises:
            XLMError: The worker lacks something, such as the model, or has another model or version than the driver.
        """
        own, loaded = self._load(self.model)
        _check_equal(own, identity)
        return partial(self._compute, loaded)

    @abstractmethod
    def _load(self, model: WorkerModel) -> tuple[dict[str, Any], Any]:
        """Load a model; return what identifies it and the versions of libraries, and what computes with it."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return the other values that the output depends on."""

    @abstractmethod
    def _compute(self, loaded: Any, window: Sequence[Row], file: int) -> OutputLines:
        """Compute a window with what ``_load`` returned; arguments as for ``Compute``."""

    def finish(self, lines: Path, target: Path, identity: Mapping[str, Any]) -> None:
        """Turn a file with the output lines of a shard into a part."""
        lines.replace(target)


@dataclass(frozen=True, kw_only=True)
class ScoreTask(Task):
    """Task that scores rows and writes the tables of ``xlm score``.

    Attributes:
        table: The output table.
        options: Options of scoring.
        layout: How rows make up texts and documents.
    """

    table: ScoreTable
    options: ScoringOptions
    layout: Layout

    @property
    def suffix(self) -> str:
        """See ``Task``."""
        return f".{self.table.format}"

    @property
    def header(self) -> bytes:
        """See ``Task``."""
        return self.table.header.encode()

    def _settings(self) -> dict[str, Any]:
        layout = {**asdict(self.layout), "group_by": [*self.layout.group_by]}
        return {
            "by": self.table.unit,
            "form": self.table.format,
            "columns": list(self.table.columns),
            "batch_size": self.options.batch_size,
            "batch_tokens": self.options.batch_tokens,
            **({"top": self.options.top} if self.options.top else {}),
            **({} if self.layout.is_plain and not self.whole else {"layout": layout}),
        }

    def finish(self, lines: Path, target: Path, identity: Mapping[str, Any]) -> None:
        """See ``Task``."""
        if self.table.format != "parquet":
            return super().finish(lines, target, identity)
        return self.table.write_parquet(lines, target, metadata={"xlm.signature": identity["signature"]})

    @property
    def whole(self) -> bool:
        """See ``Task``."""
        return self.table.kept is not None

    @property
    def groups(self) -> Groups | None:
        """See ``Task``."""
        return self.layout.groups_of_file

    def _load(self, model: WorkerModel) -> tuple[dict[str, Any], Scorer]:
        pair = model.open(offsets=self.table.unit not in ("sentence", "token"), signed=True)
        scorer = Scorer(pair.model, pair.tokenizer, lang=model.lang, options=self.options)
        signature = pair.signature(**self.layout.signature_fields(scorer), unit=self.table.log_unit)
        return self.model.identity(signature), scorer

    def _compute(self, scorer: Scorer, window: Sequence[Row], file: int) -> OutputLines:
        lines = scored_lines(scorer, window, self.table, self.layout)
        return lines._replace(counts={"tokens": lines.tokens, **lines.counts})


@dataclass(frozen=True, kw_only=True)
class TokenizeTask(Task):
    """Task that writes the lines of ``xlm tokenize``, and an empty line for an unreadable row.

    Attributes:
        output: ``"tokens"`` or ``"ids"``.
    """

    output: str

    suffix = ".txt"

    def _load(self, model: WorkerModel) -> tuple[dict[str, Any], XLMTokenizer]:
        tokenizer = model.tokenizer()
        identity = {"tokenizer": tokenizer_digest(tokenizer), "preset": tokenizer.preset, "lang": model.lang}
        return {**identity, "xlm": __version__}, tokenizer

    def _settings(self) -> dict[str, Any]:
        return {"output": self.output}

    def _compute(self, tokenizer: XLMTokenizer, window: Sequence[Row], file: int) -> OutputLines:
        reasons = [(row, row.problem) for row in window if row.problem is not None]
        texts = [row.text for row in window if row.text is not None]
        lines = iter(written_lines(tokenizer, texts, lang=self.model.lang, output=self.output))
        data = "".join(f"{'' if row.text is None else next(lines)}\n" for row in window).encode("utf-8")
        return OutputLines(data, len(reasons), 0, {}, reasons)


@dataclass(frozen=True, kw_only=True)
class GenerateTask(Task):
    """Task that writes the lines of ``xlm generate``. The prompts of a window form one batch.

    A row that cannot be continued gives one line: an empty line, or a JSON object with the key ``status``.

    Attributes:
        continuation_lang: As for ``TextGenerator``.
        options: Keyword arguments of ``decoding_options``.
        format: ``"text"`` or ``"jsonl"``.
        seed: Seed of the first file. The seed of another file is derived from this seed and the file's index.
        files: Whether each JSON object names its input file.
    """

    continuation_lang: str | None
    options: Mapping[str, Any]
    format: str
    seed: int
    files: bool

    @property
    def suffix(self) -> str:
        """See ``Task``."""
        return ".txt" if self.format == "text" else ".jsonl"

    def _settings(self) -> dict[str, Any]:
        return {
            "form": self.format,
            "continuation_lang": self.continuation_lang,
            "decoding": dict(self.options),
            "seed": self.seed,
        }

    def _load(self, model: WorkerModel) -> tuple[dict[str, Any], TextGenerator]:
        pair = model.open(few_rows=True, signed=True)
        generator = TextGenerator(
            pair.model,
            pair.tokenizer,
            lang=model.lang,
            continuation_lang=self.continuation_lang,
            options=decoding_options(**self.options),
        )
        signature = pair.signature(lang=model.lang, long="none", protocol="generation")
        return self.model.identity(signature), generator

    def _compute(self, generator: TextGenerator, window: Sequence[Row], file: int) -> OutputLines:
        seed = derived_seed(self.seed, -file) if file else self.seed  # negative, because rows use the indices 0, 1, …
        results = continue_rows(generator, window, seed=seed, batch_size=len(window), format=self.format)
        lines: list[str] = []
        reasons: list[tuple[Row, str]] = []
        stops: Counter[str] = Counter()
        for row, result in zip(window, results, strict=True):
            if isinstance(result, XLMError):
                reasons.append((row, result.in_short))
                cells = {"line": row.number, "prompt": row.text, "status": f"error: {result.in_short}"}
                lines.append(self._line(row, "", cells))
            else:
                stops.update(text.continuation.stop for text in result)
                lines += [self._line(row, text.text, text.cells()) for text in result]
        return OutputLines("".join(f"{line}\n" for line in lines).encode("utf-8"), len(reasons), 0, stops, reasons)

    def _line(self, row: Row, text: str, cells: Mapping[str, Any]) -> str:
        if self.format == "text":
            return text
        return json.dumps({"file": row.file, **cells} if self.files else cells, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class TranslateTask(Task):
    """Task that writes the lines of ``xlm translate``. The source language is ``model.lang``.

    Attributes:
        target: Name of the language to translate to.
        table: The output table.
        options: Options of translation.
    """

    target: str
    table: TranslationTable
    options: TranslationOptions

    @property
    def suffix(self) -> str:
        """See ``Task``."""
        return ".txt" if self.table.format == "text" else f".{self.table.format}"

    @property
    def header(self) -> bytes:
        """See ``Task``."""
        return self.table.header.encode()

    def _settings(self) -> dict[str, Any]:
        return {"form": self.table.format, "columns": list(self.table.columns), "options": asdict(self.options)}

    def _load(self, model: WorkerModel) -> tuple[dict[str, Any], Translator]:
        pair = model.open_as(XLMEncoderDecoderModel, few_rows=True, signed=True)
        translator = Translator(pair.model, pair.tokenizer, source=model.lang, target=self.target, options=self.options)
        signature = pair.signature(lang=f"{model.lang}-{self.target}", long="none", protocol="translation")
        return self.model.identity(signature), translator

    def _compute(self, translator: Translator, window: Sequence[Row], file: int) -> OutputLines:
        return translated_lines(translator, window, self.table)


def continue_rows(
    generator: TextGenerator, rows: Sequence[Row], *, seed: int, batch_size: int, format: str = "jsonl"
) -> list[list[GeneratedText] | XLMError]:
    """Return the continuations of each row, or the error of a row that cannot be continued.

    Args:
        generator: The generator.
        rows: The prompts, and rows without a text. The samples of a row depend on the seed and the row's number.
        seed: Seed of all rows.
        batch_size: Maximum number of prompts in a batch.
        format: Output format; ``"text"`` cannot hold a prompt with a line feed, ``"jsonl"`` can.

    Raises:
        LanguageError: The tokenizer does not have the language.
    """
    results: dict[int, list[GeneratedText] | XLMError] = {}
    prompts: dict[int, Prompt] = {}
    for index, row in enumerate(rows):
        try:
            if row.text is None:
                raise InputError(row.problem or "the row has no text")
            check_one_line(row.text, format)
            prompts[index] = generator.prompt(row.number, row.text, where="text")
        except InputError as error:
            results[index] = error
    indices = list(prompts)
    for first in range(0, len(indices), batch_size):
        batch = indices[first : first + batch_size]
        results |= zip(batch, generator.generate_each([prompts[index] for index in batch], seed=seed), strict=True)
    return [results[index] for index in range(len(rows))]


def _check_equal(worker: Mapping[str, Any], driver: Mapping[str, Any]) -> None:
    differing = [name for name, value in worker.items() if name != "signature" and driver[name] != value]
    if differing:
        raise InputError(
            "a worker differs from the machine that started the run",
            where="; ".join(differing),
            found="; ".join(str(worker[name]) for name in differing),
            expected="; ".join(str(driver[name]) for name in differing),
            remedy="use the same model and the same versions of xlm and torch on every machine",
        )
