"""Scores of the texts in a data frame of pandas or polars. This module never imports either of them."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from xlm._io.progress import ProgressBar
from xlm.corpus.formats import checked_text
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.errors import InputError
from xlm.scoring.layout import Cells, Layout, Output
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import UNITS, ScoreTable, check_unit

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_PLACE_OPTIONS = ("ranks", "entropies", "top")
"""Options that say something about one place in a text."""


def is_frame(texts: object) -> bool:
    """Return whether the texts are a ``Series`` or ``DataFrame`` of pandas or polars."""
    return any(isinstance(texts, (library.Series, library.DataFrame)) for library in _libraries().values())


def _libraries() -> dict[str, Any]:
    return {name: sys.modules[name] for name in ("pandas", "polars") if name in sys.modules}


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
    unit: str = "nats",
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> Any:
    """Return a ``DataFrame`` with the scores of texts.

    The result is of the library of ``frame``; in pandas, it has the index of the texts. All columns stay, and the new
    ones are those of ``xlm score``, with the same numbers.

    Every row is kept. The last column, ``status``, is ``"ok"``, ``"empty"``, ``"long: N windows"``, or ``"error: "``
    and the reason why the row has no scores, as in ``xlm score``. A missing text (``None``, ``NaN``, ``pd.NA``) is an
    error, too.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        frame: A ``DataFrame`` of pandas or polars, or a ``Series`` of texts.
        lang: As for ``score``.
        column: The column of a ``DataFrame`` that holds the texts.
        by: ``"sentence"`` adds the columns ``tokens``, ``logprob`` and ``unknown`` (the number of tokens that are
            ``<unk>``). ``"word"`` repeats each row for each word and adds ``word_number``, ``word``, ``start``,
            ``end``, ``tokens``, ``surprisal``, ``surprisal_without_punctuation`` and ``unknown`` (whether any token of
            the word is ``<unk>``). The closing ``</s>`` then has no row, and a text without words has one row without a
            word. ``"token"`` repeats each row for each token, including the closing one, and adds ``position``,
            ``id``, ``token``, ``logprob`` and ``unknown``. ``"region"`` repeats each row for each region. ``rank``,
            ``entropy`` and ``top`` follow if requested; those of a word or region are about its first token, and
            ``entropy_reduction`` is as in ``WordScore``. ``None`` means ``"sentence"``, or ``"word"`` with
            ``word_column``. With any of the following arguments, the new columns are those of ``xlm score`` with the
            option of the same name.
        group_by: A column whose equal values, in consecutive rows, mark the sentences of one document, which are scored
            as by ``score_documents``; or with ``word_column`` the words of one text. With ``word_column`` there may be
            two columns, of the documents and of the texts.
        word_column: The column that holds one word a row, in place of ``column``. Each row gets the scores of its word.
        prefix_column: The column of what each text is conditioned on, as ``prefixes`` for ``score``.
        lang_column: The column of the language of each text or word, or of the languages of the words of a text, with
            blanks between them. A missing or empty cell stands for ``lang``.
        region_column: The column of spans of characters, such as ``"0-7 8-12"`` or a list of pairs. With
            ``word_column``, the column of labels: consecutive words with the same label are one region.
        unit: Unit of all log-probabilities, surprisals and entropies, ``"nats"`` or ``"bits"``.
        progress: As for ``score``; the bar counts rows.
        **options: As for ``score``; ``ranks``, ``entropies`` and ``top`` need another ``by`` than
            ``"sentence"``.

    Raises:
        InputError: There is no such column or unit, the frame already has a column with the name of a new one, or an
            option requires another ``by``.
        LanguageError: The model does not have the language.
    """
    if not is_frame(frame):
        raise InputError(
            "not a data frame",
            where="frame",
            found=type(frame).__name__,
            expected="a DataFrame or a Series of pandas or polars",
            remedy="call collect() of a LazyFrame; score takes a list of texts",
        )
    bar = ProgressBar.of(frame, progress, unit="rows")
    scorer = Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options), on_batch=bar.show_share)
    by = ("sentence" if word_column is None else "word") if by is None else by
    place_options = [name for name in _PLACE_OPTIONS if getattr(scorer.options, name)]
    check_unit(by, place_options, units=(*UNITS, "region"))
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
    is_plain = len(layout.columns) == 1
    source = _source(frame, layout.text)
    for name in layout.columns:
        _check_column(name, source.columns)
    row_unit = "given word" if layout.words and by == "word" else by
    # A row of output has the names of tables that keep the columns of the input, except in plain tables of old.
    kept = None if is_plain and by != "word" else () if is_plain else tuple(set(source.columns) - {"line"})
    further = dict.fromkeys(place_options, True)
    table = ScoreTable(unit=row_unit, format="jsonl", log_unit=unit, kept=kept, **further)
    new = [name for name in table.columns if name not in ("line", "text" if is_plain else None, *(kept or ()))]
    if is_plain and (taken := [name for name in new if name in source.columns]):
        raise InputError(
            "the frame already has a column with the name of a new one",
            where="frame",
            found=", ".join(map(repr, taken)),
            remedy="rename it, or score the column alone: score_frame(..., frame[column])",
        )
    output = partial(_words_of, table) if is_plain and by == "word" else table.cells_of
    with bar:
        rows = list(_scores(scorer, source, layout, table, output, bar))
    columns = {name: [scores.get(name) for _, scores in rows] for name in new}
    return source.scored([place for place, _ in rows], columns, table.columns)


def _scores(
    scorer: Scorer, source: _Source, layout: Layout, table: ScoreTable, output: Output, bar: ProgressBar
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the scores in each row of output, by column, with the index of the row of the frame."""
    values = {name: source.values(name) for name in layout.columns}
    rows = [
        row._replace(cells={name: of_rows[row.number - 1] for name, of_rows in values.items()})
        for row in _rows(source, layout.text)
    ]
    for window in bar.groups(windows(rows, groups=layout.groups_of_file)):
        for text in layout.scores(scorer, list(layout.groups(window)), output):
            for row, cells in table.rows(text):
                yield row.number - 1, cells


def _words_of(table: ScoreTable, result: SentenceScore) -> Sequence[Cells]:
    return table.cells_of(result)[: len(result.words)]


def _check_column(column: object, columns: Sequence[object]) -> None:
    if not isinstance(column, Hashable) or columns.count(column) != 1:
        raise InputError(
            "no such column, or several of that name",
            where="column",
            found=", ".join(map(repr, columns)),
            expected=repr(column),
            remedy="name a column that occurs once; column=NAME if the texts are not in 'text'",
        )


def _rows(source: _Source, column: str) -> list[Row]:
    checked = [checked_text(value, column) for value in source.values(column)]
    return [Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(checked, start=1)]


class _Source(Protocol):
    """A frame of either library."""

    columns: list[Any]

    def values(self, column: str) -> list[Any]:
        """Return the cells of a column; the missing ones are ``None``, which gives one status."""
        ...

    def scored(self, rows: list[int], columns: Mapping[str, list[Any]], types: Mapping[str, type]) -> Any:
        """Return a frame with these rows, by index, and further columns of these types."""
        ...


def _source(frame: Any, column: str) -> _Source:
    """Return the source for a frame, or for a ``Series`` that is the column."""
    polars = _libraries().get("polars")
    if polars is not None and isinstance(frame, (polars.Series, polars.DataFrame)):
        is_series = isinstance(frame, polars.Series)
        _check_column(column, [column] if is_series else frame.columns)
        return _Polars(polars, frame.to_frame(column) if is_series else frame)
    _check_column(column, [column] if frame.ndim == 1 else list(frame.columns))
    return _Pandas(frame.to_frame(column) if frame.ndim == 1 else frame)


class _Pandas:
    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self.columns = list(frame.columns)

    def values(self, column: str) -> list[Any]:
        cells = self._frame[column]
        pairs = zip(cells.tolist(), cells.isna().tolist(), strict=True)
        return [None if missing else _without_arrays(cell) for cell, missing in pairs]

    def scored(self, rows: list[int], columns: Mapping[str, list[Any]], types: Mapping[str, type]) -> Any:
        # Rows are selected by position, not by index: an index may hold a value twice.
        frame = self._frame.iloc[rows].assign(**columns)
        kinds = {name: _pandas_type(types[name], cells) for name, cells in columns.items()}
        return frame.astype({name: kind for name, kind in kinds.items() if kind is not None})


def _pandas_type(kind: type, cells: list[Any]) -> str | None:
    """Return the type of a column; ``None`` for the one that pandas infers from its cells.

    From no cells, or missing ones only, pandas would infer another type. A bool column with a missing cell would have
    the type object, and could not be used as a mask of rows.
    """
    if kind is str:
        return None if any(cell is not None for cell in cells) else "object"
    return {bool: "boolean", float: "float64", int: "float64" if None in cells else "int64"}[kind]


def _without_arrays(cell: Any) -> Any:
    """Return a cell whose arrays are lists: pandas reads lists from Parquet as arrays, which cannot be compared."""
    return [_without_arrays(each) for each in cell.tolist()] if getattr(cell, "ndim", 0) else cell


class _Polars:
    def __init__(self, polars: Any, frame: Any) -> None:
        self._polars, self._frame = polars, frame
        self.columns = list(frame.columns)

    def values(self, column: str) -> list[Any]:
        series = self._frame[column]
        cells: list[Any] = (series.fill_nan(None) if series.dtype.is_float() else series).to_list()
        return cells

    def scored(self, rows: list[int], columns: Mapping[str, list[Any]], types: Mapping[str, type]) -> Any:
        polars = self._polars
        kinds = {str: polars.String, int: polars.Int64, float: polars.Float64, bool: polars.Boolean}
        alternative = polars.Struct({"token": polars.String, "logprob": polars.Float64})
        series = [
            polars.Series(
                name,
                [cell and [dict(zip(("token", "logprob"), pair, strict=True)) for pair in cell] for cell in cells],
                polars.List(alternative),
            )
            if name == "top"
            else polars.Series(name, cells, kinds[types[name]])
            for name, cells in columns.items()
        ]
        return self._frame[rows].with_columns(series)
