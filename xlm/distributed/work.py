"""What workers do with windows of rows: score them, tokenize them, continue them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xlm._version import __version__
from xlm.corpus.read_ahead import READ_AHEAD
from xlm.corpus.rows import Row
from xlm.distributed.worker_model import WorkerModel
from xlm.errors import InputError
from xlm.scoring.options import ScoringOptions
from xlm.scoring.sentence import Scorer
from xlm.scoring.signature import Signature
from xlm.scoring.table import ScoreTable, scored_lines
from xlm.tokenizer.fingerprint import tokenizer_digest
from xlm.tokenizer.lines import written_lines
from xlm.tokenizer.tokenizer import XLMTokenizer

_REASONS = 5


@dataclass(kw_only=True, slots=True)
class Lines:
    """The output of some rows.

    Attributes:
        data: Lines, UTF-8.
        problems: How many of the rows have none of their own, but one that says so or is empty.
        reasons: Why, of the first of them.
        counts: What else there is to count: tokens, ends of continuations.
    """

    data: bytes = b""
    problems: int = 0
    reasons: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add_problem(self, row: Row, reason: str) -> None:
        """Counts a row that has no output of its own."""
        self.problems += 1
        if len(self.reasons) < _REASONS:
            self.reasons.append(f"{row.file}, line {row.number}: {reason}")


class Step(Protocol):
    """A worker's work, with all that it needs loaded."""

    def lines(self, window: Sequence[Row], *, file: int) -> Lines:
        """The output of one window.

        Args:
            window: Rows of one file.
            file: The file's number, from 0.
        """
        ...

    def finish(self, lines: Path, target: Path) -> None:
        """Gives the output of a unit its final form; ``target`` may be where ``lines`` is."""
        ...


class Work(Protocol):
    """What is to be done; it is sent to workers, and loads nothing before it is asked to."""

    @property
    def suffix(self) -> str:
        """What names of output files end with."""
        ...

    @property
    def header(self) -> bytes:
        """What stands at the head of each of them."""
        ...

    @property
    def read_at_once(self) -> int:
        """Most rows of a window."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the output depends on, beside the input; checks, where it is called, all that can be checked there.

        Raises:
            XLMError: There is no such model, language or option.
        """
        ...

    def start(self, identity: Mapping[str, Any]) -> Step:
        """Loads everything; called once by each worker.

        Args:
            identity: What ``identity`` returned elsewhere.

        Raises:
            XLMError: Something is not here, or is another than there.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreWork:
    """Scores, in the tables of ``xlm score``.

    Attributes:
        opened: The model.
        table: The form of the output.
        options: Those of ``xlm.score``.
        read_at_once: Most rows of a window.
    """

    opened: WorkerModel
    table: ScoreTable
    options: ScoringOptions
    read_at_once: int

    @property
    def suffix(self) -> str:
        """As ``Work``'s."""
        return f".{self.table.format}"

    @property
    def header(self) -> bytes:
        """As ``Work``'s."""
        return self.table.header.encode()

    def identity(self) -> dict[str, Any]:
        """As ``Work``'s."""
        made_with = elsewhere(self.opened, self._signature(self.opened.here())[0])
        return {
            "signature": str(made_with),
            **asdict(made_with),
            "by": self.table.unit,
            "form": self.table.format,
            "columns": list(self.table.columns),
            "batch_size": self.options.batch_size,
            "batch_tokens": self.options.batch_tokens,
        }

    def start(self, identity: Mapping[str, Any]) -> Step:
        """As ``Work``'s."""
        made_with, scorer = self._signature(self.opened)
        check_same(made_with, identity)
        return _ScoreStep(scorer, self.table, str(made_with))

    def _signature(self, opened: WorkerModel) -> tuple[Signature, Scorer]:
        pair = opened.open(offsets=self.table.unit == "word", signed=True)
        scorer = Scorer(pair.model, pair.tokenizer, lang=opened.lang, options=self.options)
        return pair.signature(lang=opened.lang, long=scorer.long_texts), scorer


@dataclass(frozen=True)
class _ScoreStep:
    scorer: Scorer
    table: ScoreTable
    signature: str

    def lines(self, window: Sequence[Row], *, file: int) -> Lines:
        data, problems, tokens, unknown = scored_lines(self.scorer, window, self.table)
        # No reasons: the column status says why.
        return Lines(data=data, problems=problems, counts=Counter(tokens=tokens, unknown=unknown))

    def finish(self, lines: Path, target: Path) -> None:
        if self.table.format == "parquet":
            self.table.write_parquet(lines, target, metadata={"xlm.signature": self.signature})
        else:
            lines.replace(target)


@dataclass(frozen=True, kw_only=True)
class TokenizeWork:
    """Tokens or ids, in the lines of ``xlm tokenize``; an empty line for a row that cannot be read.

    Attributes:
        opened: The model, of which only the tokenizer is loaded.
        output: ``"tokens"`` or ``"ids"``.
        read_at_once: Most rows of a window.
    """

    opened: WorkerModel
    output: str
    read_at_once: int = READ_AHEAD

    suffix = ".txt"
    header = b""

    def identity(self) -> dict[str, Any]:
        """As ``Work``'s."""
        return _of_tokenizer(self.opened.tokenizer(), self.opened.lang) | {"output": self.output}

    def start(self, identity: Mapping[str, Any]) -> Step:
        """As ``Work``'s."""
        tokenizer = self.opened.tokenizer()
        _check_equal(_of_tokenizer(tokenizer, self.opened.lang), identity)
        return _TokenizeStep(tokenizer, self.opened.lang, self.output)


def _of_tokenizer(tokenizer: XLMTokenizer, lang: str) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer_digest(tokenizer),
        "preset": tokenizer.preset,
        "lang": lang,
        "xlm": __version__,
    }


class TextStep:
    """A step whose output are the lines as they are."""

    def finish(self, lines: Path, target: Path) -> None:
        """As ``Step``'s."""
        lines.replace(target)


@dataclass(frozen=True)
class _TokenizeStep(TextStep):
    tokenizer: XLMTokenizer
    lang: str
    output: str

    def lines(self, window: Sequence[Row], *, file: int) -> Lines:
        found = Lines()
        for row in window:
            if row.problem is not None:
                found.add_problem(row, row.problem)
        texts = [row.text for row in window if row.text is not None]
        written = iter(written_lines(self.tokenizer, texts, lang=self.lang, output=self.output))
        lines = ["" if row.text is None else next(written) for row in window]
        found.data = "".join([f"{line}\n" for line in lines]).encode("utf-8")
        return found


def elsewhere(opened: WorkerModel, made_with: Signature) -> Signature:
    """The signature that workers will have, of one that was made on a CPU."""
    return dataclasses.replace(made_with, device=opened.device or made_with.device)


def check_same(made_with: Signature, identity: Mapping[str, Any]) -> None:
    """Refuses to compute with something else than what was asked for.

    Args:
        made_with: What a worker would compute with.
        identity: What ``Work.identity`` gave.

    Raises:
        InputError: They differ.
    """
    _check_equal(asdict(made_with), identity)


def _check_equal(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    differing = [name for name, value in here.items() if there[name] != value]
    if differing:
        raise InputError(
            "a worker would compute something else than what was asked for",
            where="; ".join(differing),
            found="; ".join(str(here[name]) for name in differing),
            expected="; ".join(str(there[name]) for name in differing),
            remedy="the same model and the same versions of xlm and torch on every machine",
        )
