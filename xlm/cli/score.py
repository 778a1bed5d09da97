"""``xlm score``: lines of text to log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from xlm.cli._lines import naming_line, read_lines, write_line
from xlm.cli._options import model_and_text

if TYPE_CHECKING:
    from xlm.scoring.sentence import SentenceScore

COLUMNS = {
    "sentence": ("line", "tokens", "logprob", "text"),
    "token": ("line", "position", "id", "token", "logprob"),
}
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Cell = int | float | str


@click.command(name="score", short_help="Log-probability of each line or token of a text.")
@model_and_text
@click.option(
    "--by", type=click.Choice(list(COLUMNS)), default="sentence", show_default=True, help="What one row of output is."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tsv", "jsonl"]),
    default="tsv",
    show_default=True,
    help="tsv: a header line, then tab-separated rows without quoting; a tab, line end or backslash inside a cell is "
    r"written \t, \n, \r, \\. jsonl: the same columns as one JSON object a line.",
)
def command(model: str, file: BinaryIO, lang: str, preset: str | None, codes: str | None, by: str, form: str) -> None:
    r"""Writes what MODEL gives to each line of FILE, or of standard input, in nats (natural logarithms).

    MODEL is a model directory or a checkpoint of the original (.pth); FILE is UTF-8 text, one sentence a line, split
    at line feeds only. Each sentence is scored by itself. The opening token is given; what is predicted, and counted
    under "tokens", is every token of the sentence and the closing </s>, so an empty line counts 1.

    \b
    Columns:
        --by sentence: line (from 1), tokens, logprob (their sum), text
        --by token:    line (from 1), position (from 1), id, token, logprob

    \b
    Example:
        echo "Wikipedia was used to" | xlm score MODEL --lang en --by token
    """
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # The tokenizer first: it is read in no time, and most mistakes show there.
    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)

    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.scoring.score import score

    network = XLMWithLMHeadModel.from_pretrained(model)
    columns = COLUMNS[by]
    if form == "tsv":
        write_line("\t".join(columns))
    for number, line in read_lines(file):
        with naming_line(file, number):
            (result,) = score(network, tokenizer, [line], lang=lang)
        for row in _rows(number, result, by):
            write_line(_tsv(row) if form == "tsv" else _json(columns, row))


def _rows(number: int, result: SentenceScore, by: str) -> Iterator[tuple[Cell, ...]]:
    if by == "sentence":
        yield number, len(result.tokens), result.logprob, result.text
        return
    predicted = zip(result.ids, result.tokens, result.logprobs, strict=True)
    for position, (index, token, logprob) in enumerate(predicted, start=1):
        yield number, position, index, token, logprob


def _tsv(row: tuple[Cell, ...]) -> str:
    return "\t".join(f"{cell:.6f}" if isinstance(cell, float) else str(cell).translate(_ESCAPES) for cell in row)


def _json(columns: tuple[str, ...], row: tuple[Cell, ...]) -> str:
    cells = (round(cell, 6) if isinstance(cell, float) else cell for cell in row)
    return json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False)
