"""``xlm tokenize``: split text into tokens or ids."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from xlm._io.progress import ProgressBar
from xlm.cli._distributed import engines, inputs, resuming, run_on_ray, uses_ray, worker_model
from xlm.cli._inputs import UntilError, naming_line, open_corpus
from xlm.cli._options import Command, file_argument, model_argument, option, section, text_options, workers_option
from xlm.cli._output import write_text

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer

_ONLY_RAY = ("resume", "progress")


@click.command(cls=Command, short_help="Split text into the tokens or ids of a model")
@model_argument
@file_argument
@text_options
@section(
    "Output",
    option(
        "--output",
        "tokens: BPE pieces with </w> at word ends, including pieces outside the vocabulary; ids: their ids, "
        "with the special tokens at both ends of a sentence",
        type=click.Choice(["tokens", "ids"]),
        default="tokens",
    ),
)
@workers_option
@engines(*resuming)
def command(
    model: str, file: Any, lang: str, preset: str | None, codes: str | None, output: str, workers: int, **of_ray: Any
) -> None:
    r"""Write the tokens of each line of FILE or of standard input, one line for each.

    An empty line gives an empty line. The command stops at a row that cannot be read. With --engine ray, such a row
    gives an empty line, and the command reports it at the end.

    \b
    Example:
        echo "Wikipedia was used to" | xlm tokenize xlm-clm-ende-small --lang en
    """
    if uses_ray(only_ray=_ONLY_RAY, only_local=("workers", "gpus_per_worker")):
        _on_ray(model, file, lang=lang, output=output, options={**of_ray, "preset": preset, "codes": codes})
        return
    from xlm.tokenizer.batches import in_batches, in_order
    from xlm.tokenizer.tokenizer import XLMTokenizer

    # On a terminal, the results show the progress.
    bar = ProgressBar(False if sys.stdout.isatty() else None, unit="lines")
    with closing(open_corpus([file], format=of_ray["input_format"], column=of_ray["column"])) as corpus, bar:
        tokenizer = XLMTokenizer.from_pretrained(model, preset=preset, codes=codes)
        encode = _Encoder(tokenizer=tokenizer, lang=lang, output=output)
        if workers == 1 and not any(size for _, size in corpus.sizes):  # a user may be waiting at a terminal
            for number, text in enumerate(corpus.texts(), start=1):
                with naming_line(corpus.place(number)):
                    write_text(encode([text]).data)
                bar.show(number)
            return
        encode([""])  # report a wrong language before any process starts
        texts = UntilError(corpus.texts())
        for block in in_order(encode, in_batches(texts), workers=workers):
            write_text(block.data)
            bar.show(bar.done + block.lines)
        texts.raise_error()


def _on_ray(model: str, name: str, *, lang: str, output: str, options: dict[str, Any]) -> None:
    files = inputs([name], options)
    from xlm.distributed.tasks import TokenizeTask

    task = TokenizeTask(model=worker_model(model, lang=lang, options=options), output=output)
    run_on_ray(task, files, options)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """Output for a block of lines, as bytes because processes exchange those fastest."""

    data: bytes
    lines: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Encoder:
    tokenizer: XLMTokenizer
    lang: str
    output: str

    def __call__(self, texts: list[str]) -> _Block:
        from xlm.tokenizer.batches import written_lines

        lines = written_lines(self.tokenizer, texts, lang=self.lang, output=self.output)
        return _Block(data="".join([f"{line}\n" for line in lines]).encode("utf-8"), lines=len(texts))
