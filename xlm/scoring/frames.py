"""Scores of the texts in a data frame of pandas, as a frame with the same index; pandas itself is the caller's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xlm.errors import InputError
from xlm.scoring.sentence import SentenceScore

if TYPE_CHECKING:
    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.tokenizer.tokenizer import XLMTokenizer

_Scores = Callable[[list[str]], list[SentenceScore]]

_COLUMNS = {
    "sentence": ["tokens", "logprob"],
    "word": ["word", "start", "end", "tokens", "surprisal"],
    "token": ["token", "id", "logprob"],
}


def is_frame(texts: object) -> bool:
    """Whether these are a ``Series`` or ``DataFrame``; pandas is not imported to find out."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(texts, (pandas.Series, pandas.DataFrame))


def score_frame(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    frame: Any,
    *,
    lang: str,
    column: str = "text",
    by: str = "sentence",
    **options: Any,
) -> Any:
    """A ``DataFrame`` of scores with the index of the texts; log-probabilities and surprisals in nats.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        frame: A ``DataFrame`` of pandas, or a ``Series`` of texts.
        lang: As for ``score``.
        column: Which column of a ``DataFrame`` holds the texts.
        by: ``"sentence"`` adds the columns ``tokens`` and ``logprob``. ``"word"`` gives each row once for each word,
            with ``word``, ``start``, ``end``, ``tokens`` and ``surprisal``; the closing ``</s>`` is not among them.
            ``"token"`` gives it once for each token, the closing one included, with ``token``, ``id``, ``logprob``,
            and ``rank`` and ``entropy`` if they are asked for.
        **options: As for ``score``.

    Raises:
        InputError: No such column, one of that name that the result needs, no such unit, or as for ``score``. A missing
            text (``None``, ``NaN``) is a text that is not a str.
        LanguageError: A language that the model does not have.
    """
    from xlm.scoring.score import score

    if not is_frame(frame):
        raise InputError(
            "this is no data frame", where="frame", found=type(frame).__name__, expected="a DataFrame or a Series"
        )
    return frame_of(frame, lambda texts: score(model, tokenizer, texts, lang=lang, **options), column=column, by=by)


def frame_of(frame: Any, scores: _Scores, *, column: str = "text", by: str = "sentence") -> Any:
    """The frame of ``score_frame``, its texts scored by a function."""
    columns = {"sentence": _sentence, "word": _words, "token": _tokens}
    if by not in columns:
        raise InputError("no such unit", where="by", found=repr(by), expected=" or ".join(map(repr, columns)))
    if frame.ndim == 1:
        frame = frame.to_frame(column)
    if list(frame.columns).count(column) != 1:
        raise InputError(
            "the frame has no such column, or several",
            where="column",
            found=", ".join(map(repr, frame.columns)),
            expected=repr(column),
            remedy="score_frame(..., column=NAME)",
        )
    results = scores(frame[column].tolist())
    rows = [columns[by](result) for result in results]
    # Rows are told by place: an index may hold a value twice.
    found = frame.iloc[[place for place, row in enumerate(rows) for _ in row]]
    # Without any row, the columns that there always are.
    names = next((list(row[0]) for row in rows if row), _COLUMNS[by])
    taken = [name for name in names if name in frame.columns]
    if taken:
        raise InputError(
            "the frame has a column of a name that the result needs",
            where="frame",
            found=", ".join(map(repr, taken)),
            remedy="rename it, or score the column alone: score_frame(..., frame[column])",
        )
    return found.assign(**{name: [cells[name] for row in rows for cells in row] for name in names})


def _sentence(result: SentenceScore) -> list[dict[str, Any]]:
    return [{"tokens": len(result.logprobs), "logprob": result.logprob}]


def _words(result: SentenceScore) -> list[dict[str, Any]]:
    return [
        {"word": word.text, "start": word.start, "end": word.end, "tokens": word.tokens, "surprisal": word.surprisal}
        for word in result.words
    ]


def _tokens(result: SentenceScore) -> list[dict[str, Any]]:
    columns: dict[str, Any] = {"token": result.tokens, "id": result.ids, "logprob": result.logprobs}
    columns |= {"rank": result.ranks} if result.ranks is not None else {}
    columns |= {"entropy": result.entropies} if result.entropies is not None else {}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
