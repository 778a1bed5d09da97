"""``xlm tokenize``: lines of text to lines of tokens or ids."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import engines, inputs, resuming, run_on_ray, uses_ray, worker_model
from xlm.cli._lines import UntilError, naming_line
from xlm.cli._options import model_and_text, open_corpus

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer

_LINES_BETWEEN_REPORTS = 5000
_ONLY_RAY = ("resume", "progress")


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
@engines(*resuming)
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
    Hugging Face hub. FILE is what xlm score reads: UTF-8 text, one sentence a line, or by its name JSON lines, CSV, TSV
    or Parquet, all but the last also compressed (.gz). Empty lines stay. A row that cannot be read ends the work.

    With --engine ray, a cluster does the work. A row that cannot be read is then an empty line, which is said at the
    end.

    \b
    Example:
        echo "Wikipedia was used to" | xlm tokenize xlm-clm-ende-small --lang en
    """
    if uses_ray(only_ray=_ONLY_RAY, only_local=("workers", "gpus_per_worker")):
        _on_ray(model, file, lang=lang, output=output, options={**of_ray, "preset": preset, "codes": codes})
        return
    from xlm.tokenizer.batches import in_batches, in_order
    from xlm.tokenizer.tokenizer import XLMTokenizer

    with closing(open_corpus([file], form=of_ray["input_format"], column=of_ray["column"])) as corpus:
        tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
        work = _Work(tokenizer=tokenizer, lang=lang, output=output)
        if workers == 1 and not any(size for _, size in corpus.sizes):  # someone may be waiting for each line
            for number, text in enumerate(corpus.texts(), start=1):
                with naming_line(corpus.place(number)):
                    click.echo(work([text]).written, nl=False)
                if number % _LINES_BETWEEN_REPORTS == 0:
                    _show(number)
            return
        work([""])  # a wrong language is said before any process starts
        done = 0
        texts = UntilError(corpus.texts())
        for block in in_order(work, in_batches(texts), workers=workers):
            click.echo(block.written, nl=False)
            done += block.lines
            _show(done)
        texts.raise_error()


def _on_ray(model: str, name: str, *, lang: str, output: str, options: dict[str, Any]) -> None:
    form, column = options["input_format"], options["column"]
    files = inputs([name], form=form, column=column)
    from xlm.distributed.tasks import TokenizeTask

    task = TokenizeTask(model=worker_model(model, lang=lang, options=options), output=output)
    run_on_ray(task, files, task.identity(), form=form, column=column, options=options)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """What has become of a block of lines: bytes, which go from one process to another fastest."""

    written: bytes
    lines: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    tokenizer: XLMTokenizer
    lang: str
    output: str

    def __call__(self, texts: list[str]) -> _Block:
        from xlm.tokenizer.batches import written_lines

        lines = written_lines(self.tokenizer, texts, lang=self.lang, output=self.output)
        return _Block(written="".join([f"{line}\n" for line in lines]).encode("utf-8"), lines=len(texts))


def _show(lines: int) -> None:
    """Shows on a terminal how far the work is."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        click.echo(f"\r{lines:,} lines", nl=False, err=True)
