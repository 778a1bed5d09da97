"""``xlm tokenize``: lines of text to lines of tokens or ids."""

from __future__ import annotations

from typing import BinaryIO

import click

from xlm.cli._lines import naming_line, read_lines, write_line
from xlm.cli._options import model_and_text


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
def command(model: str, file: BinaryIO, lang: str, preset: str | None, codes: str | None, output: str) -> None:
    r"""Writes the tokens of each line of FILE, or of standard input: one line out for one line in.

    MODEL is a model directory or a checkpoint of the original (.pth); FILE is UTF-8 text, one sentence a line, split
    at line feeds only. Empty lines stay.

    \b
    Example:
        echo "Wikipedia was used to" | xlm tokenize MODEL --lang en
    """
    from xlm.tokenizer.tokenizer import XLMTokenizer

    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    for number, line in read_lines(file):
        with naming_line(file, number):
            if output == "tokens":
                write_line(" ".join(tokenizer.tokenize(line, lang)))
            else:
                write_line(" ".join(map(str, tokenizer.encode(line, lang=lang))))
