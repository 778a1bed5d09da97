"""Scores of the texts in a pandas data frame, as a frame with the same index. This module never imports pandas."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from xlm.corpus.formats import checked_text
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.errors import InputError, XLMError
from xlm.scoring.layout import Layout
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import (
    UNITS,
    ScoreTable,
    cells_of,
    cells_of_unit,
    check_unit,
    results_of,
    span_cells,
    status_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_COLUMNS = {
    "sentence": ("tokens", "logprob", "unknown"),
    "word": ("word", "start", "end", "tokens", "surprisal", "unknown"),
    "token": ("token", "id", "logprob", "unknown"),
}
_OPTIONAL = {"ranks": ("rank",), "entropies": ("entropy", "entropy_reduction"), "top": ("top",)}
"""The columns of each option. A token has no ``entropy_reduction``."""


def is_frame(texts: object) -> bool:
    """Return whether the texts are a ``Series`` or ``DataFrame``."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(texts, (pandas.Series, pandas.DataFrame))


@shows_scoring_options
def score_frame(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    frame: Any,
    *,
    lang: str,
    column: str = "text",
    by: str | None = None,
    group_by: str | Sequence[str] = (),
    word_column: str | None = None,
    prefix_column: str | None = None,
    lang_column: str | None = None,
    region_column: str | None = None,
    **options: Unpack[ScoringKeywords],
) -> Any:
    """Return a ``DataFrame`` of scores with the index of the texts; log-probabilities and surprisals are in nats.

    Every row is kept. The last column, ``status``, is ``"ok"``, ``"empty"``, ``"long: N windows"``, or ``"error: "``
    and the reason why the row has no scores, as in ``xlm score``. A missing text (``None``, ``NaN``, ``pd.NA``) is an
    error, too.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        frame: A pandas ``DataFrame``, or a ``Series`` of texts.
        lang: As for ``score``.
        column: The column of a ``DataFrame`` that holds the texts.
        by: ``"sentence"`` adds the columns ``tokens``, ``logprob`` and ``unknown`` (the number of tokens that are
            ``<unk>``). ``"word"`` repeats each row for each word and adds ``word``, ``start``, ``end``, ``tokens``,
            ``surprisal`` and ``unknown`` (whether any token of the word is ``<unk>``). The closing ``</s>`` then has no
            row, and a text without words has one row without a word. ``"token"`` repeats each row for each token,
            including the closing one, and adds ``token``, ``id``, ``logprob`` and ``unknown``. ``"region"`` repeats
            each row for each region. If requested, ``rank``, ``entropy`` and ``top`` follow; those of a word or region
            are about its first token, and ``entropy_reduction`` is as in ``WordScore``. ``None`` means
            ``"sentence"``, or ``"word"`` with ``word_column``. With any of the following arguments, the new columns
            are those of ``xlm score`` with the option of the same name.
        group_by: A column whose equal values, in consecutive rows, mark the sentences of one document, which are scored
            as by ``score_documents``; or with ``word_column`` the words of one text. With ``word_column`` there may be
            two columns, of the documents and of the texts.
        word_column: The column that holds one word a row, in place of ``column``. Each row gets the scores of its word.
        prefix_column: The column of what each text is conditioned on, as ``prefixes`` for ``score``.
        lang_column: The column of the language of each text or word, or of the languages of the words of a text, with
            blanks between them. A missing or empty cell stands for ``lang``.
        region_column: The column of spans of characters, such as ``"0-7 8-12"`` or a list of pairs. With
            ``word_column``, the column of labels: consecutive words with the same label are one region.
        **options: As for ``score``; ``ranks``, ``entropies`` and ``top`` need another ``by`` than ``"sentence"``.

    Raises:
        InputError: There is no such column or unit, the frame already has a column with the name of a new one, or an
            option requires another ``by``.
        LanguageError: The model does not have the language.
    """
    if not is_frame(frame):
        raise InputError(
            "not a data frame", where="frame", found=type(frame).__name__, expected="a DataFrame or a Series"
        )
    scorer = Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options))
    by = ("sentence" if word_column is None else "word") if by is None else by
    check_unit(by, _options_of_places(scorer), units=(*UNITS, "region"))
    groups: Any = group_by
    layout = Layout(
        lang=lang,
        text=column if word_column is None else word_column,
        words=word_column is not None,
        group_by=tuple(groups) if isinstance(groups, list | tuple) else (groups,),
        prefix=prefix_column,
        languages=lang_column,
        regions=region_column,
    )
    layout.check(by)
    if len(layout.columns) == 1:
        return frame_of(scorer, frame, column=column, by=by)
    return _laid_out(scorer, frame, layout, by=by)


def frame_of(scorer: Scorer, frame: Any, *, column: str = "text", by: str = "sentence") -> Any:
    """Return the result of ``score_frame`` with an existing scorer."""
    names = _names(scorer, by)
    columns = [column] if frame.ndim == 1 else list(frame.columns)
    _check_column(column, columns)
    taken = [name for name in names if name in columns]
    if taken:
        raise InputError(
            "the frame already has a column with the name of a new one",
            where="frame",
            found=", ".join(map(repr, taken)),
            remedy="rename it, or score the column alone: score_frame(..., frame[column])",
        )
    if frame.ndim == 1:
        frame = frame.to_frame(column)
    cells = [
        [{**each, "status": status_of(row, result)} for each in _cells(result, by)]
        for window in windows(_rows(frame[column], column))
        for row, result in zip(window, results_of(scorer, window), strict=True)
    ]
    # Select rows by position, not by index: an index may hold a value twice.
    scores = frame.iloc[[position for position, row_cells in enumerate(cells) for _ in row_cells]]
    scores = scores.assign(**{name: [each.get(name) for row_cells in cells for each in row_cells] for name in names})
    # With a missing value, a bool column would have the type object, and could not be used as a mask of rows.
    return scores if by == "sentence" else scores.astype({"unknown": "boolean"})


def _laid_out(scorer: Scorer, frame: Any, layout: Layout, *, by: str) -> Any:
    """Return the result of ``score_frame`` for rows that make up texts or documents."""
    if frame.ndim == 1:
        frame = frame.to_frame(layout.text)
    columns = list(frame.columns)
    for name in layout.columns:
        _check_column(name, columns)
    requested = dict.fromkeys(_options_of_places(scorer), True)
    unit = "given word" if layout.words and by == "word" else by
    table = ScoreTable(unit=unit, format="jsonl", kept=tuple(set(columns) - {"line"}), **requested)
    values = {name: _values(frame[name]) for name in layout.columns}
    rows = [
        replace(row, cells={name: of_rows[row.number - 1] for name, of_rows in values.items()})
        for row in _rows(frame[layout.text], layout.text)
    ]
    output = partial(cells_of_unit, table)
    scores = [
        (row.number - 1, table.further(row, cells, result))
        for window in windows(rows, groups=layout.groups_of_file)
        for row, cells, result, _ in layout.scores(scorer, list(layout.groups(window)), output, span_cells)
    ]
    new = [name for name in table.columns if name not in ("line", *columns)]
    result = frame.iloc[[place for place, _ in scores]]
    result = result.assign(**{name: [cells.get(name) for _, cells in scores] for name in new})
    return result if by == "sentence" else result.astype({"unknown": "boolean"})


def _names(scorer: Scorer, by: str) -> list[str]:
    requested = _options_of_places(scorer)
    check_unit(by, requested)
    *names, unknown = _COLUMNS[by]
    names += [name for option in requested for name in _OPTIONAL[option]]
    return [*(name for name in names if by == "word" or name != "entropy_reduction"), unknown, "status"]


def _options_of_places(scorer: Scorer) -> list[str]:
    """Return the names of the set options that say something about one place in a text."""
    return [option for option in _OPTIONAL if getattr(scorer.options, option)]


def _check_column(column: object, columns: Sequence[object]) -> None:
    if not isinstance(column, Hashable) or columns.count(column) != 1:
        raise InputError(
            "no such column, or several of that name",
            where="column",
            found=", ".join(map(repr, columns)),
            expected=repr(column),
            remedy="name a column that occurs once; column=NAME if the texts are not in 'text'",
        )


def _values(column: Any) -> list[Any]:
    # pandas has several kinds of missing values. All become None, which gives one status.
    return [None if missing else text for text, missing in zip(column.tolist(), column.isna().tolist(), strict=True)]


def _rows(texts: Any, column: str) -> list[Row]:
    checked = [checked_text(value, column) for value in _values(texts)]
    return [Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(checked, start=1)]


def _cells(result: SentenceScore | XLMError | None, by: str) -> list[dict[str, Any]]:
    if not isinstance(result, SentenceScore):
        return [{}]
    if by != "word":
        return cells_of(result, by)
    words = [{"word": word.text, **span_cells(word)} for word in result.words]
    return words or [{}]
