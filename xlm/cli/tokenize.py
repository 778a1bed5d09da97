"""``xlm tokenize``: lines of text to lines of tokens or ids."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from xlm.cli._distributed import engines, inputs, resuming, uses_ray, work_on_ray, worker_model
from xlm.cli._lines import is_standard_input, naming_file, naming_line, read_lines, write_line
from xlm.cli._options import COLUMN, INPUT_FORMAT, model_and_text

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer

_BLOCK_BYTES = 1 << 21
_LINES_BETWEEN_REPORTS = 5000
_ONLY_RAY = ("input_format", "column", "resume", "progress")


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
@engines(INPUT_FORMAT, COLUMN, *resuming)
def command(
    model: str,
    file: Any,
    lang: str,
    preset: str | None,
    codes: str | None,
    output: str,
    workers: int,
    **of_ray: Any,
) -> None:
    r"""Writes the tokens of each line of FILE, or of standard input: one line out for one line in.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILE is UTF-8 text, one sentence a line, split at line feeds only. Empty lines stay.

    With --engine ray, a cluster does the work, and FILE may be of any form that xlm score reads, by its name too:
    FILE.jsonl then holds objects and FILE.gz is decompressed, where this process takes all for plain text. A row that
    cannot be read is an empty line, which is said at the end.

    \b
    Example:
        echo "Wikipedia was used to" | xlm tokenize xlm-clm-ende-small --lang en
    """
    if uses_ray(only_ray=_ONLY_RAY, only_local=("workers", "gpus_per_worker")):
        _on_ray(model, file, lang=lang, output=output, options={**of_ray, "preset": preset, "codes": codes})
        return
    from xlm.tokenizer.parallel import in_order
    from xlm.tokenizer.tokenizer import XLMTokenizer

    tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
    work = _Work(tokenizer=tokenizer, lang=lang, output=output)
    if workers == 1 and is_standard_input(file):  # someone may be waiting for each line
        for number, line in read_lines(file):
            with naming_line(file, number):
                write_line(work.of_lines([line])[0])
            if number % _LINES_BETWEEN_REPORTS == 0:
                _show(number)
        return
    work.of_lines([""])  # a wrong language is said before any process starts
    done = 0
    for block in in_order(work, _blocks(file), workers=workers):
        if block.unread:
            for _, line in read_lines(file, lines=io.BytesIO(block.unread), first=done + 1):
                write_line(work.of_lines([line])[0])
        click.echo(block.written, nl=False)
        done += block.lines
        _show(done)


def _on_ray(model: str, name: str, *, lang: str, output: str, options: dict[str, Any]) -> None:
    form, column = options["input_format"], options["column"]
    files = inputs([name], form=form, column=column)
    from xlm.distributed.work import TokenizeWork

    work = TokenizeWork(opened=worker_model(model, lang=lang, options=options), output=output)
    work_on_ray(work, files, work.identity(), form=form, column=column, options=options)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """What has become of a block of lines: bytes, which go from one process to another fastest."""

    written: bytes = b""
    lines: int = 0
    unread: bytes = b""
    """The block itself, if it is not UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    tokenizer: XLMTokenizer
    lang: str
    output: str

    def __call__(self, block: bytes) -> _Block:
        try:
            lines = block.decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError:
            return _Block(unread=block)
        written = "".join([f"{line}\n" for line in self.of_lines(lines)])
        return _Block(written=written.encode("utf-8"), lines=len(lines))

    def of_lines(self, lines: list[str]) -> list[str]:
        from xlm.tokenizer.lines import written_lines

        return written_lines(self.tokenizer, lines, lang=self.lang, output=self.output)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yields whole lines, about two megabytes of them at a time; without a byte order mark at the start."""
    mark = codecs.BOM_UTF8
    while True:
        with naming_file(file):
            block = file.read(_BLOCK_BYTES)
            # Behind the end nothing more is read: a terminal would wait for another Ctrl-D.
            rest = b"" if not block or block.endswith(b"\n") else file.readline()
        if not block:
            return
        yield (block + rest).removeprefix(mark)
        mark = b""


def _show(lines: int) -> None:
    """Shows on a terminal how far the work is."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        click.echo(f"\r{lines:,} lines", nl=False, err=True)
