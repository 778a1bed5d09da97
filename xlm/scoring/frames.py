"""Scores of the texts in a pandas data frame, as a frame with the same index. This module never imports pandas."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from xlm.corpus.formats import checked_text
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.errors import InputError
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import cells_of, check_unit, results_of, status_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_COLUMNS = {
    "sentence": ("tokens", "logprob", "unknown"),
    "word": ("word", "start", "end", "tokens", "surprisal", "unknown"),
    "token": ("token", "id", "logprob", "unknown"),
}
_TOKEN_OPTIONS = {"ranks": "rank", "entropies": "entropy", "top": "top"}  # each option and its column


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
    by: str = "sentence",
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
            including the closing one, and adds ``token``, ``id``, ``logprob``, ``unknown``, and, if requested,
            ``rank``, ``entropy`` and ``top``.
        **options: As for ``score``; ``ranks``, ``entropies`` and ``top`` need ``by="token"``.

    Raises:
        InputError: There is no such column or unit, the frame already has a column with the name of a new one, or an
            option requires another ``by``.
        LanguageError: The model does not have the language.
    """
    if not is_frame(frame):
        raise InputError(
            "not a data frame", where="frame", found=type(frame).__name__, expected="a DataFrame or a Series"
        )
    return frame_of(Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options)), frame, column=column, by=by)


def frame_of(scorer: Scorer, frame: Any, *, column: str = "text", by: str = "sentence") -> Any:
    """Return the result of ``score_frame`` with an existing scorer."""
    names = _names(scorer, by)
    columns = [column] if frame.ndim == 1 else list(frame.columns)
    if not isinstance(column, Hashable) or columns.count(column) != 1:
        raise InputError(
            "no such column, or several of that name",
            where="column",
            found=", ".join(map(repr, columns)),
            expected=repr(column),
            remedy="score_frame(..., column=NAME)",
        )
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


def _names(scorer: Scorer, by: str) -> list[str]:
    requested = [option for option in _TOKEN_OPTIONS if getattr(scorer.options, option)]
    check_unit(by, requested)
    *names, unknown = _COLUMNS[by]
    return [*names, *(_TOKEN_OPTIONS[option] for option in requested), unknown, "status"]


def _rows(texts: Any, column: str) -> list[Row]:
    # pandas has several kinds of missing values. All become None, which gives one status.
    values = [None if missing else text for text, missing in zip(texts.tolist(), texts.isna().tolist(), strict=True)]
    checked = [checked_text(value, column) for value in values]
    return [Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(checked, start=1)]


def _cells(result: SentenceScore | InputError | None, by: str) -> list[dict[str, Any]]:
    if not isinstance(result, SentenceScore):
        return [{}]
    if by != "word":
        return cells_of(result, by)
    words = [
        {"word": word.text, **{name: getattr(word, name) for name in _COLUMNS["word"][1:]}} for word in result.words
    ]
    return words or [{}]
