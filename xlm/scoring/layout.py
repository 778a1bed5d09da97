"""How the rows of a table make up words, texts and documents, and which scores belong to which row."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xlm.corpus.rows import Row
from xlm.errors import InputError, XLMError
from xlm.scoring.scorer import Scorer, SentenceScore, WordScore, finite
from xlm.scoring.text import Text

_SPANS = re.compile(r"\s*(\d+\s*[-–:]\s*\d+([\s,;]+|$))*")
_SPAN = re.compile(r"(\d+)\s*[-–:]\s*(\d+)")

Cells = dict[str, Any]
CellsOf = Callable[[Row], Mapping[str, Any]]
"""Returns the cells of a row that can be read, by column."""


class RowScore(NamedTuple):
    """A row of output.

    Attributes:
        row: The input row that it belongs to.
        cells: Its scores by column; empty if there are none.
        result: The scores of the whole text, or the error that prevents scoring; ``None`` if the input row has a
            problem.
        first: Whether it is the first row of output of its text.
    """

    row: Row
    cells: Cells
    result: SentenceScore | XLMError | None
    first: bool


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
    prefix: str | None = None
    languages: str | None = None
    regions: str | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that a table must have."""
        optional = (self.prefix, self.languages, self.regions)
        return [self.text, *self.group_by, *(name for name in optional if name is not None)]

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
        ]
        for is_wrong, what, where, remedy in wrong:
            if is_wrong:
                raise InputError(what, where=where, remedy=remedy)

    @property
    def has_documents(self) -> bool:
        """Whether sentences are scored given the sentences before them."""
        return self.documents or bool(self._document_columns)

    @property
    def _document_columns(self) -> tuple[str, ...]:
        return self.group_by[:-1] if self.words else self.group_by

    def groups(self, rows: Iterable[Row], cells_of: CellsOf) -> Iterator[list[Row]]:
        """Yield the rows of each document or, outside documents, of each text.

        A row that cannot be read belongs to the rows before it, or at the start of a document to those behind it.

        Args:
            rows: Rows of one file, in order.
            cells_of: As ``CellsOf``.
        """
        columns = self._document_columns or self.group_by
        group: list[Row] = []
        last: list[Any] = []
        for row in rows:
            key = last if row.text is None else [cells_of(row).get(name) for name in columns]
            if group and (key != last or not (columns or self.documents)):
                yield group
                group = []
            group.append(row)
            last = key
            if self._is_separator(row, cells_of):
                yield group
                group = []
        if group:
            yield group

    def scores(
        self,
        scorer: Scorer,
        groups: Sequence[Sequence[Row]],
        cells_of: CellsOf,
        output: Callable[[SentenceScore], Sequence[Cells]],
    ) -> Iterator[RowScore]:
        """Yield the rows of output in order: at least one for each row, except for those that separate documents.

        Args:
            scorer: Model, tokenizer and options.
            groups: Rows as ``groups`` divides them, which are scored together.
            cells_of: As ``CellsOf``.
            output: Returns the cells of each row of output of a text, unless each row is a word.
        """
        texts = [None if any(row.text is None for row in group) else self._texts(group, cells_of) for group in groups]
        documents = [[text for text, _ in each] for each in texts if each is not None]
        results = iter(scorer.score_documents(documents, name=lambda *_: "text"))
        for group, its_texts in zip(groups, texts, strict=True):
            if its_texts is None:
                number = next(row.number for row in group if row.text is None)
                error = InputError(f"row {number}, which belongs to the same group, cannot be read")
                for row in group:
                    if not self._is_separator(row, cells_of):
                        yield RowScore(row, {}, None if row.text is None else error, True)
                continue
            result = next(results)
            for place, (_, rows) in enumerate(its_texts):
                sentence = result if isinstance(result, XLMError) else finite(result[place])
                for number, (row, cells) in enumerate(self._rows_of(rows, sentence, cells_of, output)):
                    yield RowScore(row, cells, sentence, number == 0)

    def _is_separator(self, row: Row, cells_of: CellsOf) -> bool:
        return self.documents and row.text is not None and not cells_of(row)[self.text].strip()

    def _texts(self, group: Sequence[Row], cells_of: CellsOf) -> list[tuple[Text, list[Row]]]:
        """Return the texts of a group, each with its rows."""
        if not self.words:
            return [(self._text(cells_of(row)), [row]) for row in group if not self._is_separator(row, cells_of)]
        by_text = itertools.groupby(group, lambda row: [cells_of(row).get(name) for name in self.group_by])
        return [self._text_of_words(list(rows), cells_of) for _, rows in by_text]

    def _text(self, cells: Mapping[str, Any]) -> Text:
        regions = None if self.regions is None else cells.get(self.regions)
        languages = self._languages(cells)
        return Text(
            cells[self.text],
            languages[0] if len(languages) == 1 else languages,
            prefix=_string(cells, self.prefix),
            regions=_spans(regions) if isinstance(regions, str) else () if regions is None else regions,
        )

    def _text_of_words(self, rows: list[Row], cells_of: CellsOf) -> tuple[Text, list[Row]]:
        cells = [cells_of(row) for row in rows]
        words, prefix = [each[self.text] for each in cells], _string(cells[0], self.prefix)
        lang: str | list[str] = self.lang
        if self.languages is not None:
            of_words = [" ".join(self._languages(each)) for each in cells]
            lang = [*[of_words[0]] * len(prefix.split()), *of_words]
        return Text(" ".join(words), lang, prefix=prefix, given_words=words), rows

    def _languages(self, cells: Mapping[str, Any]) -> list[str]:
        return _string(cells, self.languages).split() or [self.lang]

    def _rows_of(
        self,
        rows: Sequence[Row],
        result: SentenceScore | XLMError,
        cells_of: CellsOf,
        output: Callable[[SentenceScore], Sequence[Cells]],
    ) -> Iterator[tuple[Row, Cells]]:
        if isinstance(result, XLMError):
            yield from ((row, {}) for row in rows)
        elif not self.words:
            yield from ((rows[0], cells) for cells in output(result) or [{}])
        elif self.regions is None:
            for number, (row, word) in enumerate(zip(rows, result.words, strict=True), start=1):
                yield row, {"word_number": number, **span_cells(word)}
        else:
            labels = [cells_of(row).get(self.regions) for row in rows]
            triples = zip(labels, rows, result.words, strict=True)
            by_region = itertools.groupby(triples, lambda triple: triple[0])
            for number, (_, region) in enumerate(by_region, start=1):
                _, own_rows, words = zip(*region, strict=True)
                yield own_rows[0], {"region_number": number, **_sum(words)}


def span_cells(word: WordScore) -> Cells:
    """Return the cells of a word or region."""
    return {
        "start": word.start,
        "end": word.end,
        "tokens": word.tokens,
        "surprisal": word.surprisal,
        "surprisal_without_punctuation": word.surprisal_without_punctuation,
        "unknown": word.unknown,
    }


def _sum(words: Sequence[WordScore]) -> Cells:
    return {
        "start": words[0].start,
        "end": words[-1].end,
        "tokens": sum(word.tokens for word in words),
        "surprisal": sum(word.surprisal for word in words),
        "unknown": any(word.unknown for word in words),
    }


def _string(cells: Mapping[str, Any], column: str | None) -> str:
    """Return the cell of a column as text; empty if there is no column, or the cell is missing or NaN."""
    cell = None if column is None else cells.get(column)
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell)


def _spans(cell: str) -> Any:
    """Return the spans in a cell such as ``0-7 8-12``; the cell itself if it is of another form."""
    return [(int(start), int(end)) for start, end in _SPAN.findall(cell)] if _SPANS.fullmatch(cell) else [cell]
