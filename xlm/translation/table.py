"""Write the translations of a corpus as lines of plain text, TSV or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xlm.corpus.rows import Row
from xlm.corpus.tables import Cell, OutputLines, table_line, tsv_line
from xlm.translation.translator import TranslatedText, Translator

_COLUMNS: dict[str, type] = {
    "line": int,
    "text": str,
    "translation": str,
    "rank": int,
    "logprob": float,
    "score": float,
    "stop": str,
    "status": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationTable:
    """The output of ``xlm translate``.

    Attributes:
        format: ``"text"`` for one line for each row, with its best translation; ``"tsv"`` or ``"jsonl"`` for one line
            for each translation, with all columns.
        files: Whether the first column names the input file.
    """

    format: str
    files: bool = False

    @property
    def columns(self) -> Mapping[str, type]:
        """Types of the cells by column, in order."""
        return {"file": str, **_COLUMNS} if self.files else _COLUMNS

    @property
    def header(self) -> str:
        """The header line, with its line end; empty for formats without a header."""
        return tsv_line(self.columns) if self.format == "tsv" else ""

    def lines(self, row: Row, result: TranslatedText) -> Iterator[str]:
        """Yield the output lines of one input row, with line ends: one for each translation, and at least one.

        Args:
            row: The input row.
            result: The translations of the row, or the problem that prevents them.
        """
        if self.format == "text":
            yield f"{result.text}\n"
            return
        shared: dict[str, Cell] = {"file": row.file, "line": row.number, "text": row.text}
        if result.problem is not None:
            yield table_line(self.columns, {**shared, "status": f"error: {result.problem}"}, format=self.format)
        for rank, translation in enumerate(result.translations, start=1):
            cells = {
                **shared,
                "translation": translation.text,
                "rank": rank,
                "logprob": translation.logprob,
                "score": translation.score,
                "stop": translation.stop,
                "status": "ok",
            }
            yield table_line(self.columns, cells, format=self.format)


def translated_lines(translator: Translator, window: Sequence[Row], table: TranslationTable) -> OutputLines:
    """Return the output lines of a window of rows, in order; even a row without a translation gives a line.

    The counts are those of the translations by why they stopped.

    Args:
        translator: Model, tokenizer and options.
        window: The rows to translate together.
        table: The form of the output.
    """
    results = iter(translator.translate_window([row.text for row in window if row.text is not None]))
    lines: list[str] = []
    reasons: list[tuple[Row, str]] = []
    tokens = 0
    stops: Counter[str] = Counter()
    for row in window:
        result = TranslatedText(source="", problem=row.problem) if row.text is None else next(results)
        lines += table.lines(row, result)
        if result.problem is not None:
            reasons.append((row, result.problem))
        for translation in result.translations:
            tokens += len(translation.tokens) + 1
            stops[translation.stop] += 1
    unstated = reasons if table.format == "text" else ()
    return OutputLines("".join(lines).encode("utf-8"), len(reasons), tokens, stops, unstated)
