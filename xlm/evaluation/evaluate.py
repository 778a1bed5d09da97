"""Accuracy of a model on minimal pairs and on the items of suites."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xlm._io.arguments import check_choice, shown
from xlm._io.progress import ProgressBar
from xlm.corpus.read_ahead import length_of, read_ahead
from xlm.errors import InputError, warn_caller
from xlm.evaluation.formula import Region
from xlm.evaluation.tasks import GROUPS, TASK_FORMATS, Item, read_items
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.corpus.tables import Cell

_ORDER = {name: rank for rank, name in enumerate(("task", *GROUPS, "all"))} | {"prediction": 0}
_QUANTILE = 1.959963984540054  # of the normal distribution, for a confidence of 95 %

ITEM_COLUMNS: dict[str, type] = {
    "task": str,
    "item": str,
    "condition": str,
    "region": str,
    "text": str,
    "surprisal": float,
    "unknown": bool,
    "correct": bool,
    "tie": bool,
}
"""Columns of ``Evaluation.rows``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """How many items of a task or group are correct.

    Attributes:
        by: What the items have in common: ``task``, ``prediction``, ``linguistics_term``, ``field`` or ``all``.
        name: Name of the task or group, or the formula of a prediction; empty for ``all``.
        items: Number of items.
        correct: Number of items for which every formula holds.
        ties: Number of items that are not correct because two numbers are equal.
        unknown: Number of items with an ``<unk>`` token, which replaces pieces outside the vocabulary.
    """

    by: str
    name: str
    items: int
    correct: int
    ties: int
    unknown: int

    @property
    def accuracy(self) -> float:
        """Share of correct items."""
        return self.correct / self.items

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of ``accuracy`` (Wilson's score interval), for independent items."""
        square = _QUANTILE**2 / self.items
        middle = (self.accuracy + square / 2) / (1 + square)
        half = math.sqrt(self.accuracy * (1 - self.accuracy) * square + square**2 / 4) / (1 + square)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemResult:
    """The surprisals of an item and what follows from them.

    Attributes:
        item: The item.
        surprisals: Surprisal in nats, by condition and region. The region ``*`` is the whole sentence with the closing
            ``</s>``, which belongs to no other region; without it if ``closing`` is false.
        unknown: Whether a token of the condition and region is ``<unk>``.
    """

    item: Item
    surprisals: Mapping[Region, float]
    unknown: Mapping[Region, bool]

    @property
    def predictions(self) -> tuple[bool, ...]:
        """Whether each formula of the item holds."""
        return tuple(formula.holds(self.surprisals) for formula in self.item.formulas)

    @property
    def ties(self) -> tuple[bool, ...]:
        """Whether each formula fails because two numbers are equal."""
        return tuple(formula.is_tie(self.surprisals) for formula in self.item.formulas)

    @property
    def correct(self) -> bool:
        """Whether every formula holds."""
        return all(self.predictions)

    @property
    def tie(self) -> bool:
        """Whether a formula fails because two numbers are equal."""
        return any(self.ties)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The results of ``evaluate``.

    Attributes:
        items: The results of all items, in order.
    """

    items: tuple[ItemResult, ...]

    def __repr__(self) -> str:
        of_each = (f"{each.by} {each.name}".rstrip() + f": {each.correct}/{each.items}" for each in self.accuracies)
        return f"<Evaluation, correct by {', '.join(of_each)}>"

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """The accuracies of each task, of each prediction of a suite with several, of each group, and of all tasks.

        An item counts once, whatever the size of its task.
        """
        verdicts: dict[tuple[str, str], list[tuple[bool, bool, bool]]] = defaultdict(list)
        for result in self.items:
            unknown = any(result.unknown.values())
            for by, name, correct, tie in _verdicts(result):
                verdicts[by, name].append((correct, tie, unknown))
        if len({result.item.task for result in self.items}) == 1:
            del verdicts["all", ""]
        return tuple(
            Accuracy(
                by=by,
                name=name,
                items=len(each),
                correct=sum(correct for correct, _, _ in each),
                ties=sum(tie for _, tie, _ in each),
                unknown=sum(unknown for _, _, unknown in each),
            )
            for (by, name), each in sorted(verdicts.items(), key=lambda entry: _ORDER[entry[0][0]])
        )

    def rows(self) -> Iterator[dict[str, Cell]]:
        """Yield the rows of a table with the columns ``ITEM_COLUMNS``, for example for ``pandas.DataFrame``.

        Each sentence has a row for each of its regions, if it has any, and one with the region ``*`` for the whole.
        """
        for result in self.items:
            correct, tie = result.correct, result.tie
            for condition in result.item.conditions:
                spans = {**condition.regions, "*": (0, len(condition.text))}
                for region, (start, end) in spans.items():
                    yield {
                        "task": result.item.task,
                        "item": result.item.number,
                        "condition": condition.name,
                        "region": region,
                        "text": condition.text[start:end],
                        "surprisal": result.surprisals[condition.name, region],
                        "unknown": result.unknown[condition.name, region],
                        "correct": correct,
                        "tie": tie,
                    }


@shows_scoring_options
def evaluate(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    tasks: str | Path | Iterable[str | Path],
    *,
    lang: str,
    task_format: str | None = None,
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> Evaluation:
    """Return which minimal pairs, and which items of suites, a model judges correctly.

    A minimal pair is correct if the good sentence is more probable than the bad one, both with their closing ``</s>``
    unless ``closing`` is false. An item of a suite is correct if all formulas of the suite hold. Equal numbers count as
    wrong; the numbers of two sentences with the same tokens are equal.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        tasks: One or more files: minimal pairs in the format of BLiMP (``.jsonl``) or CLAMS (``.txt`` or ``.tsv``), or
            suites of SyntaxGym (``.json``); all of them may be gzipped (``.gz``).
        lang: The language of all sentences.
        task_format: ``"blimp"``, ``"clams"`` or ``"syntaxgym"`` for files whose names do not tell it.
        progress: As for ``score``; the bar counts items.
        **options: Attributes of ``ScoringOptions``, by name.

    Raises:
        InputError: A file cannot be read or has another format (the message names the line or item), there is none, or
            ``score`` refuses an argument.
        LanguageError: The model does not have the language, or the tokenizer cannot report where its words begin.
    """
    if task_format is not None:
        check_choice("format of tasks", TASK_FORMATS, task_format=task_format)
    files = [read_items(path, format=task_format) for path in _paths(tasks)]
    return evaluate_tasks(model, tokenizer, files, lang=lang, progress=progress, **options)


def evaluate_tasks(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    tasks: Sequence[Sequence[Item]],
    *,
    lang: str,
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> Evaluation:
    """Return the result of ``evaluate`` for the items of each task; the other arguments and errors are as there."""
    files = Counter(key for items in tasks for key in {(item.task, item.number) for item in items})
    if names := sorted({task for (task, _), count in files.items() if count > 1}):
        warn_caller(f"several files have the same task and items, and count as one task: {', '.join(names)[:200]}")
    bar = ProgressBar(progress, unit="items", total=sum(map(len, tasks)))
    scorer = Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options), on_batch=bar.show_share)
    with bar:
        return Evaluation(items=tuple(result for items in bar.groups(tasks) for result in _evaluate(scorer, items)))


def _evaluate(scorer: Scorer, items: Sequence[Item]) -> list[ItemResult]:
    texts = list(dict.fromkeys(condition.text for item in items for condition in item.conditions))
    results = dict(zip(texts, scorer.score_windows(read_ahead(texts, length_of)), strict=True))
    # Sentences with the same tokens have one score, although rounding may differ from batch to batch.
    by_ids: dict[tuple[int, ...], SentenceScore] = {}
    judged = []
    for item in items:
        surprisals: dict[Region, float] = {}
        unknown: dict[Region, bool] = {}
        for condition in item.conditions:
            result = results[condition.text]
            whole = condition.name, "*"
            surprisals[whole] = 0.0 - by_ids.setdefault(result.ids, result).logprob
            unknown[whole] = any(result.unknowns)
            starts = [word.start for word in result.words] if condition.regions else []
            for number, (start, end) in condition.regions.items():
                words = result.words[bisect_left(starts, start) : bisect_left(starts, end)]
                surprisals[condition.name, number] = math.fsum(word.surprisal for word in words)
                unknown[condition.name, number] = any(word.unknown for word in words)
        judged.append(ItemResult(item=item, surprisals=surprisals, unknown=unknown))
    return judged


def _verdicts(result: ItemResult) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield each task or group that an item counts for, with whether it is correct there and whether it is a tie."""
    item = result.item
    yield "task", item.task, result.correct, result.tie
    if len(item.formulas) > 1:
        for formula, holds, tie in zip(item.formulas, result.predictions, result.ties, strict=True):
            yield "prediction", f"{item.task}: {formula.text}", holds, tie
    for key, name in item.groups.items():
        yield key, name, result.correct, result.tie
    yield "all", "", result.correct, result.tie


def _paths(tasks: str | Path | Iterable[str | Path]) -> list[Path]:
    if isinstance(tasks, str | os.PathLike):
        tasks = [tasks]
    try:
        paths = [Path(task) for task in tasks]
    except TypeError as error:
        raise InputError(
            "tasks are not files",
            where="tasks",
            found=shown(tasks),
            expected="a path, or a list of them",
            remedy='write pairs to a file with one {"sentence_good": …, "sentence_bad": …} a line',
        ) from error
    if not paths:
        raise InputError("there is no task", where="tasks", found="no file", expected="at least one")
    return paths
