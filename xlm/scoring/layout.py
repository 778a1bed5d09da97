"""How the rows of a table make up words, texts and documents, and which scores belong to which row."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from xlm.corpus.rows import Row
from xlm.errors import InputError, XLMError, warn_caller
from xlm.scoring.scorer import Scorer, SentenceScore, WordScore, finite
from xlm.scoring.sentence_ends import sentence_spans
from xlm.scoring.text import Text

_SPANS = re.compile(r"\s*(\d+\s*[-–:]\s*\d+([\s,;]+|$))*")
_SPAN = re.compile(r"(\d+)\s*[-–:]\s*(\d+)")
_MOST_LABELS = 1 << 20
"""Number of different labels after which no more are remembered, so that memory stays bounded."""

Cells = dict[str, Any]
Output = Callable[[SentenceScore], Sequence[Cells]]
"""Returns the cells of each row of output of a text."""


class TextScore(NamedTuple):
    """The scores of a text.

    Attributes:
        result: The scores of the whole text, or the error that prevents scoring; ``None`` if its row has a problem.
        rows: Each row of output: the input row that it belongs to, and its scores by column, which are empty if there
            are none.
    """

    result: SentenceScore | XLMError | None
    rows: list[tuple[Row, Cells]]


class _Placed(NamedTuple):
    """A text and where it comes from.

    Attributes:
        text: The text.
        rows: Its rows: one, or one for each word.
        sentence: If it is a sentence of a row, its number there, from 1.
        start: Index of its first character in the text of the row.
    """

    text: Text
    rows: Sequence[Row]
    sentence: int | None = None
    start: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What the rows and columns of a table stand for.

    Attributes:
        lang: Name of the language of rows that do not name their own.
        text: Column of the texts, or of the words.
        words: Whether a row is a word; the rows of one group are then the words of one text.
        documents: Whether a row without text ends a document. Otherwise a row is a text by itself, unless ``group_by``
            is given.
        group_by: Columns. Consecutive rows with the same values in them are the sentences of one document, or the words
            of one text. With words and several columns, the last one tells the sentences of a document apart.
        split_sentences: Whether a row holds several sentences, which are those of a document.
        prefix: Column of what a text is conditioned on; for words, the cell of the first one counts.
        languages: Column of the language of a text or word, or of the languages of the words of a text, with blanks
            between them. An empty cell stands for ``lang``.
        regions: Column of the regions of a text, such as ``0-7 8-12``; or, with ``words``, of the label of each word's
            region, where consecutive words with the same label are one region.
    """

    lang: str
    text: str = "text"
    words: bool = False
    documents: bool = False
    group_by: tuple[str, ...] = ()
    split_sentences: bool = False
    prefix: str | None = None
    languages: str | None = None
    regions: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        optional = (self.prefix, self.languages, self.regions)
        return [self.text, *self.group_by, *(name for name in optional if name is not None)]

    @property
    def is_plain(self) -> bool:
        """Whether each row is a text by itself, without anything from other columns."""
        return len(self.columns) == 1 and not (self.documents or self.split_sentences)

    def check(self, by: object) -> None:
        """Raise ``InputError`` if the columns and the unit of one row of output do not fit together."""
        wrong = [
            (
                self.words and not self.group_by,
                "words need the column that says which text each belongs to",
                "group_by",
                "group_by=NAME, or --group-by NAME",
            ),
            (
                self.words and by not in ("word", "region"),
                "one word a row gives scores of words or regions",
                "by",
                "by='word' or by='region'",
            ),
            (
                self.documents and bool(self.group_by),
                "blank rows and a column both mark documents",
                "group_by",
                "--documents or --group-by, not both",
            ),
            (
                len(self.group_by) > 1 + self.words,
                "too many columns mark documents and texts",
                "group_by",
                "one column for the documents; with one word a row, also one for their texts",
            ),
            (
                (by == "region") != (self.regions is not None),
                "regions need their column",
                "by",
                "by='region' together with region_column=NAME, or --by region with --region-column NAME",
            ),
            (
                self.split_sentences and (self.words or self.prefix is not None or self.regions is not None),
                "only texts without words, prefixes and regions of their own can be split into sentences",
                "split_sentences",
                "--split-sentences without --word-column, --prefix-column and --region-column",
            ),
        ]
        for is_wrong, what, where, remedy in wrong:
            if is_wrong:
                raise InputError(what, where=where, remedy=remedy)

    @property
    def has_documents(self) -> bool:
        """Whether sentences are scored given the sentences before them."""
        return self.documents or self.split_sentences or bool(self._document_columns)

    @property
    def _document_columns(self) -> tuple[str, ...]:
        return self.group_by[:-1] if self.words else self.group_by

    def signature_fields(self, scorer: Scorer) -> dict[str, str]:
        """Return the arguments of ``OpenedModel.signature`` for these scores."""
        options = scorer.options
        protocol = "document" if self.has_documents else "sentence"
        protocol += "" if options.closing else " without </s>"
        protocol += " of split sentences" if self.split_sentences else ""
        lang = f"{scorer.lang} or column {self.languages}" if self.languages else scorer.lang
        long = "refuse" if options.too_long == "refuse" else f"stride {options.stride}"
        return {"lang": lang, "long": long, "protocol": protocol}

    def groups(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Yield the rows of each document or, outside documents, of each text.

        A row whose cells cannot be read belongs to the rows before it, or at the start of a file to those behind it.

        Args:
            rows: Rows of one file, in order.
        """
        columns = self._document_columns or self.group_by
        if not columns and not self.documents:
            yield from ([row] for row in rows)  # at once: the next row may not be typed yet
            return
        group: list[Row] = []
        unknown = last = object()
        label_of = _labels_in(columns)
        for row in rows:
            if columns:
                key = last if row.cells is None else label_of(row)
                if group and key != last and last is not unknown:
                    yield group
                    group = []
                last = key
            group.append(row)
            if self.documents and self._is_separator(row):
                yield group
                group = []
        if group:
            yield group

    def groups_of_file(self, rows: Iterable[Row], *, warn: Callable[[str], None] = warn_caller) -> Iterator[list[Row]]:
        """Yield ``groups``, and warn if labels suggest that the rows of a text or document are not consecutive.

        Args:
            rows: All rows of one file, in order.
            warn: Called with a warning, at most once for each kind.
        """
        if not self.group_by:
            yield from self.groups(rows)
            return
        columns = self._document_columns or self.group_by
        label_of = _labels_in(columns)
        seen: set[int] = set()
        warned: set[str] = set()

        def warn_once(kind: str, row: Row, column: str, what: str) -> None:
            if kind not in warned:
                warned.add(kind)
                warn(f"row {row.number}: {what.format(f'{_cell(row, column)!r} in column {column!r}')}")

        for group in self.groups(rows):
            first = group[0]
            if first.cells is not None:
                label = hash(str(label_of(first)))
                if label in seen:
                    warn_once(
                        "group",
                        first,
                        columns[0],
                        "{} occurs again, behind other labels, and begins another text. The rows of a text must be "
                        "consecutive: sort the table, or keep the rows of one reader",
                    )
                elif len(seen) < _MOST_LABELS:
                    seen.add(label)
            if self.words and all(row.text is not None for row in group):
                self._check_texts(group, warn_once)
            yield group

    def _check_texts(self, group: Sequence[Row], warn_once: Callable[[str, Row, str, str], None]) -> None:
        """Warn if a text occurs twice in a document, or if the words of a text are repeated."""
        column = self.group_by[-1]
        label_of = _labels_in(self.group_by)
        labels: set[str] = set()
        for rows in self._rows_by_text(group):
            label = str(label_of(rows[0]))
            if label in labels:
                warn_once(
                    "text",
                    rows[0],
                    column,
                    "{} occurs twice in one document, which is read as one text after the other. The rows of a text "
                    "must be consecutive: sort the table, or keep the rows of one reader",
                )
            labels.add(label)
            words = [row.text for row in rows]
            if _is_repeated(words):
                warn_once(
                    "words",
                    rows[0],
                    column,
                    "the words of {} are repeated in one text. If they are those of several readers, keep the rows of "
                    "one reader",
                )

    def scores(
        self,
        scorer: Scorer,
        groups: Sequence[Sequence[Row]],
        output: Output,
    ) -> Iterator[TextScore]:
        """Yield the scores of each text in order. Each row has at least one row of output, except between documents.

        Args:
            scorer: Model, tokenizer and options.
            groups: Rows as ``groups`` divides them, which are scored together.
            output: Not used if each row is a word.
        """
        texts = [None if any(row.text is None for row in group) else self._texts(group) for group in groups]
        documents = [[placed.text for placed in each] for each in texts if each is not None]
        results = iter(scorer.score_documents(documents, name=lambda *_: "text"))
        rows_of = self._rows_of_words if self.words else partial(self._rows_of_text, output)
        for group, its_texts in zip(groups, texts, strict=True):
            if its_texts is None:
                number = next(row.number for row in group if row.text is None)
                error = InputError(f"row {number}, which belongs to the same group, cannot be read")
                for row in group:
                    if not self._is_separator(row):
                        yield TextScore(None if row.text is None else error, [(row, {})])
                continue
            result = next(results)
            for place, placed in enumerate(its_texts):
                sentence = result if isinstance(result, XLMError) else finite(result[place])
                yield TextScore(sentence, list(rows_of(placed, sentence)))

    def _is_separator(self, row: Row) -> bool:
        return self.documents and row.text is not None and not row.text.strip()

    def _rows_by_text(self, group: Sequence[Row]) -> Iterator[list[Row]]:
        for _, rows in itertools.groupby(group, _labels_in(self.group_by)):
            yield list(rows)

    def _texts(self, group: Sequence[Row]) -> list[_Placed]:
        """Return the texts of a group."""
        if self.words:
            return [self._text_of_words(rows) for rows in self._rows_by_text(group)]
        rows = [row for row in group if not self._is_separator(row)]
        if not self.split_sentences:
            return [_Placed(self._text(row), [row]) for row in rows]
        return [placed for row in rows for placed in self._sentences(row)]

    def _text(self, row: Row) -> Text:
        assert row.text is not None
        if row.cells is None:
            return Text(row.text, self.lang)
        regions = _cell(row, self.regions)
        languages = self._languages(row)
        return Text(
            row.text,
            languages[0] if len(languages) == 1 else languages,
            prefix=_string(row, self.prefix),
            regions=_spans(regions) if isinstance(regions, str) else () if regions is None else regions,
        )

    def _sentences(self, row: Row) -> Iterator[_Placed]:
        whole = self._text(row)
        lang = whole.lang if isinstance(whole.lang, str) else whole.lang[0]
        spans = sentence_spans(whole.text, lang=lang) or [(0, len(whole.text))]
        for number, (start, end) in enumerate(spans, start=1):
            yield _Placed(Text(whole.text[start:end], whole.lang), [row], number, start)

    def _text_of_words(self, rows: Sequence[Row]) -> _Placed:
        words = [row.text or "" for row in rows]
        prefix = _string(rows[0], self.prefix)
        lang: str | list[str] = self.lang
        if self.languages is not None:
            of_words = [" ".join(self._languages(row)) for row in rows]
            lang = [*[of_words[0]] * len(prefix.split()), *of_words]
        return _Placed(Text(" ".join(words), lang, prefix=prefix, given_words=words), rows)

    def _languages(self, row: Row) -> list[str]:
        return _string(row, self.languages).split() or [self.lang]

    def _rows_of_text(
        self,
        output: Output,
        placed: _Placed,
        result: SentenceScore | XLMError,
    ) -> Iterator[tuple[Row, Cells]]:
        (row,) = placed.rows
        for cells in [{}] if isinstance(result, XLMError) else output(result) or [{}]:
            if placed.sentence is not None:
                span = {"start": 0, "end": len(placed.text.text), **cells}
                moved = {name: span[name] + placed.start for name in ("start", "end")}
                cells = {**cells, **moved, "sentence": placed.sentence}
            yield row, cells

    def _rows_of_words(self, placed: _Placed, result: SentenceScore | XLMError) -> Iterator[tuple[Row, Cells]]:
        if isinstance(result, XLMError):
            yield from ((row, {}) for row in placed.rows)
        elif self.regions is None:
            for number, (row, word) in enumerate(zip(placed.rows, result.words, strict=True), start=1):
                cells = word._asdict()
                cells["word_number"] = number
                yield row, cells
        else:
            labels = [_cell(row, self.regions) for row in placed.rows]
            triples = zip(labels, placed.rows, result.words, strict=True)
            by_region = itertools.groupby(triples, lambda triple: triple[0])
            for number, (_, region) in enumerate(by_region, start=1):
                _, own_rows, words = zip(*region, strict=True)
                yield own_rows[0], {"region_number": number, **_sum(words)}


def _sum(words: Sequence[WordScore]) -> Cells:
    """Return the cells of the region that words make up."""
    with_tokens = [word for word in words if word.tokens] or words[:1]
    first, last = with_tokens[0], with_tokens[-1]
    reduction = None
    if first.entropy is not None and last.entropy is not None and last.entropy_reduction is not None:
        reduction = first.entropy - (last.entropy - last.entropy_reduction)
    return first._asdict() | {
        "start": words[0].start,
        "end": words[-1].end,
        "tokens": sum(word.tokens for word in words),
        "surprisal": sum(word.surprisal for word in words),
        "unknown": any(word.unknown for word in words),
        "entropy_reduction": reduction,
    }


def _is_repeated(words: Sequence[str | None]) -> bool:
    """Return whether words consist of two or more copies of the same two or more words."""
    count = len(words)
    return any(
        count % period == 0 and list(words[period:]) == list(words[:-period]) for period in range(2, count // 2 + 1)
    )


def _labels_in(columns: Sequence[str]) -> Callable[[Row], object]:
    """Return a function from a row to its cell in one column, or to its cells in several."""
    if len(columns) == 1:
        (name,) = columns
        return lambda row: _cell(row, name)
    return lambda row: [_cell(row, name) for name in columns]


def _cell(row: Row, column: str | None) -> Any:
    """Return the cell of a column; ``None`` if there is no column, or the cell is missing or NaN.

    NaN is not equal to itself, so consecutive rows would not have the same label.
    """
    cell = None if column is None or row.cells is None else row.cells.get(column)
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def _string(row: Row, column: str | None) -> str:
    """Return the cell of a column as text; empty if there is no column, or the cell is missing or NaN."""
    cell = _cell(row, column)
    return "" if cell is None else str(cell)


def _spans(cell: str) -> Any:
    """Return the spans in a cell such as ``0-7 8-12``; the cell itself if it is of another form."""
    return [(int(start), int(end)) for start, end in _SPAN.findall(cell)] if _SPANS.fullmatch(cell) else [cell]
