"""``xlm tokenize``: lines of text to lines of tokens or ids."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import click

from xlm.cli._lines import is_standard_input, naming_line, read_lines, write_line, write_lines
from xlm.cli._options import model_and_text
from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer

_BATCH_LINES = 5000
_BATCH_CHARACTERS = 1 << 20


@click.command(name="tokenize", short_help="Text to the tokens or ids of a model.")
@model_and_text
@click.option(
    "--output",
    type=click.Choice(["tokens", "ids"]),
    default="tokens",
    show_default=True,
    help="tokens: the pieces of the text, in </w> notation, those that the vocabulary lacks too. "
    "ids: their numbers, with the special tokens that stand at both ends of a sentence.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many processes share the work. The lines stay in order, and only some thousands are held at a time.",
)
def command(
    model: str, file: BinaryIO, lang: str, preset: str | None, codes: str | None, output: str, workers: int
) -> None:
    r"""Writes the tokens of each line of FILE, or of standard input: one line out for one line in.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILE is UTF-8 text, one sentence a line, split at line feeds only. Empty lines stay.

    \b
    Example:
        echo "Wikipedia was used to" | xlm tokenize xlm-clm-ende-small --lang en
    """
    from xlm.tokenizer.parallel import in_order
    from xlm.tokenizer.tokenizer import XLMTokenizer

    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    written = partial(_lines, tokenizer, lang=lang, output=output)
    if workers == 1 and is_standard_input(file):  # someone may be waiting for each line
        for number, line in read_lines(file):
            with naming_line(file, number):
                write_line(written([line])[0])
            _show(number)
        return
    written([""])  # a wrong language is said before any process starts
    reading = _Batches(file)
    number = 0
    for lines in in_order(written, reading, workers=workers):
        write_lines(lines)
        number += len(lines)
        _show(number)
    if reading.error is not None:
        raise reading.error


def _lines(tokenizer: XLMTokenizer, lines: list[str], *, lang: str, output: str) -> list[str]:
    if output == "tokens":
        return [" ".join(tokens) for tokens in tokenizer.tokenize_batch(lines, lang)]
    return [" ".join(map(str, ids)) for ids in tokenizer.encode_batch(lines, lang=lang)]


class _Batches:
    """The lines of a file in batches; an error ends them and is kept, so that what stands before it comes out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: InputError | None = None

    def __iter__(self) -> Iterator[list[str]]:
        batch: list[str] = []
        characters = 0
        try:
            for _, line in read_lines(self._file):
                batch.append(line)
                characters += len(line)
                if characters > _BATCH_CHARACTERS or len(batch) >= _BATCH_LINES:
                    yield batch
                    batch, characters = [], 0
        except InputError as error:
            self.error = error
        if batch:
            yield batch


def _show(lines: int) -> None:
    """Shows on a terminal how far the work is."""
    if lines % _BATCH_LINES == 0 and sys.stderr.isatty() and not sys.stdout.isatty():
        click.echo(f"\r{lines:,} lines", nl=False, err=True)
