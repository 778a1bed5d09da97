"""Scores of the texts in a pandas data frame, as a frame with the same index; never imports pandas itself."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from xlm.corpus.formats import checked_text
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Row
from xlm.errors import InputError
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer
from xlm.scoring.sentence import SentenceScore
from xlm.scoring.table import check_unit, results_of, status_of, token_cells

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_COLUMNS = {
    "sentence": ("tokens", "logprob", "unknown"),
    "word": ("word", "start", "end", "tokens", "surprisal", "unknown"),
    "token": ("token", "id", "logprob", "unknown"),
}
_OF_TOKENS = {"ranks": "rank", "entropies": "entropy", "top": "top"}  # option and column


def is_frame(texts: object) -> bool:
    """Return whether the texts are a ``Series`` or ``DataFrame``, without importing pandas."""
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
    """Return a ``DataFrame`` of scores with the index of the texts; log-probabilities and surprisals in nats.

    Every row stays. The last column, ``status``, says ``"ok"``, ``"empty"``, ``"long: N windows"``, or ``"error: "``
    and why the row has no scores, as ``xlm score`` does: a missing text (``None``, ``NaN``, ``pd.NA``) is such a row.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        frame: A ``DataFrame`` of pandas, or a ``Series`` of texts.
        lang: As for ``score``.
        column: Which column of a ``DataFrame`` holds the texts.
        by: ``"sentence"`` adds the columns ``tokens``, ``logprob`` and ``unknown``, the number of tokens that are
            ``<unk>``. ``"word"`` gives each row once for each word, with ``word``, ``start``, ``end``, ``tokens``,
            ``surprisal`` and ``unknown``, whether a token of it is ``<unk>``; the closing ``</s>`` is not among them,
            and a text without words is one row without a word. ``"token"`` gives it once for each token, the closing
            one included, with ``token``, ``id``, ``logprob``, ``unknown``, and ``rank``, ``entropy`` and ``top`` if
            they are asked for.
        **options: As for ``score``; ``ranks``, ``entropies`` and ``top`` by token only.

    Raises:
        InputError: No such column, one of that name that the result needs, no such unit, an option that the result has
            no place for, or an option that is none of ``score``'s.
        LanguageError: A language that the model does not have.
    """
    if not is_frame(frame):
        raise InputError(
            "not a data frame", where="frame", found=type(frame).__name__, expected="a DataFrame or a Series"
        )
    return frame_of(Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options)), frame, column=column, by=by)


def frame_of(scorer: Scorer, frame: Any, *, column: str = "text", by: str = "sentence") -> Any:
    """Return the frame of ``score_frame``."""
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
            "the frame has a column of a name that the result needs",
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
    # Rows are told by place: an index may hold a value twice.
    scores = frame.iloc[[place for place, of_row in enumerate(cells) for _ in of_row]]
    scores = scores.assign(**{name: [each.get(name) for of_row in cells for each in of_row] for name in names})
    # With a missing value, bool would become object, which selects nothing.
    return scores if by == "sentence" else scores.astype({"unknown": "boolean"})


def _names(scorer: Scorer, by: str) -> list[str]:
    asked = [option for option in _OF_TOKENS if getattr(scorer.options, option)]
    check_unit(by, asked)
    names = list(_COLUMNS[by])
    names[-1:-1] = [_OF_TOKENS[option] for option in asked]
    return [*names, "status"]


def _rows(texts: Any, column: str) -> list[Row]:
    # pandas has several values for what is missing: the status has one.
    values = [None if missing else text for text, missing in zip(texts.tolist(), texts.isna().tolist(), strict=True)]
    checked = [checked_text(value, column) for value in values]
    return [Row(file="", number=n, text=text, problem=problem) for n, (text, problem) in enumerate(checked, start=1)]


def _cells(result: SentenceScore | InputError | None, by: str) -> Sequence[dict[str, Any]]:
    if not isinstance(result, SentenceScore):
        return [{}]
    if by == "sentence":
        return [{"tokens": len(result.tokens), "logprob": result.logprob, "unknown": result.unknown}]
    if by == "word":
        words = [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "tokens": word.tokens,
                "surprisal": word.surprisal,
                "unknown": word.unknown,
            }
            for word in result.words
        ]
        return words or [{}]
    return token_cells(result)
