"""``xlm translate``: translate texts."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import engines, inputs, run_on_ray, uses_ray, worker_model
from xlm.cli._inputs import open_corpus
from xlm.cli._options import (
    OUTPUT_PATH,
    Command,
    compute_options,
    files_argument,
    input_options,
    model_argument,
    model_source,
    option,
    picked,
    section,
    tokenizer_options,
)
from xlm.cli._output import TableWriter, counted, show_signature, show_stops
from xlm.cli._run import CorpusRun, bar_of_rows, check_output, raise_if_damaged

if TYPE_CHECKING:
    from xlm.corpus.rows import Row
    from xlm.corpus.tables import OutputLines

_COUNT = click.IntRange(1)


@click.command(cls=Command, short_help="Translate sentences with an encoder-decoder model")
@model_argument
@files_argument
@section(
    "Input",
    option("--from", "Language of the texts, one of the model's", dest="source", required=True, metavar="LANG"),
    option("--to", "Language to translate to", dest="target", required=True, metavar="LANG"),
)
@tokenizer_options
@input_options
@section(
    "Output",
    option("--output", "File to write", type=OUTPUT_PATH, show_default="standard output"),
    option(
        "--format",
        "text: the best translation of each row, one line each; tsv: a header and tab-separated rows, quoted as by "
        "xlm score; jsonl: one JSON object a row",
        dest="table_format",
        type=click.Choice(["text", "tsv", "jsonl"]),
        show_default="aligned columns on a terminal, else text",
    ),
    option(
        "--tokenized",
        "Write words and punctuation between spaces, as the model produces them, not as one writes text",
        is_flag=True,
    ),
    option("--resume", "Continue the interrupted run of this --output or --output-dir", is_flag=True),
    option("--progress/--no-progress", "Show progress", default=None, show_default="on a terminal"),
)
@section(
    "Generation",
    option("--num-beams", "Beams of beam search; 1 is greedy search", type=_COUNT, default=1),
    option("--n-best", "Translations of each row, at most --num-beams; above 1 not as text", type=_COUNT, default=1),
    option(
        "--length-penalty",
        "Exponent of the length in the score of a beam, log-probability / tokens ** X",
        type=float,
        show_default="1",
    ),
    option("--early-stopping", "Stop a sentence once it has --num-beams translations", is_flag=True),
    option(
        "--max-length",
        "Maximum tokens of a translation, </s> at both ends included",
        type=click.IntRange(2),
        show_default="1.5 times those of the text, plus 10",
    ),
)
@compute_options
@section("Performance", option("--batch-size", "Rows in a batch, of similar length", type=_COUNT, default=32))
@engines()
def command(
    model: str, files: tuple[Any, ...], source: str, target: str, table_format: str | None, **options: Any
) -> None:
    r"""Translate each row of FILES, or of standard input, which should be one sentence.

    MODEL is an encoder-decoder: a translation checkpoint of the original (.pth) with --codes, the directory that xlm
    convert made from one, or a directory that xlm train wrote.

    The output has the order of the input and keeps every row. As text, a row without a translation gives an empty
    line; standard error names the row and the reason, and the exit status is 1. A row has no translation if it is
    empty, cannot be read, or has more tokens than the model has positions: a text is never cut. At the end, standard
    error counts why translations stopped: at eos they are complete, at max_length or positions they are cut.

    \b
    Columns with --format tsv or jsonl, after "file" if there are several:
        line (from 1), text, translation, rank (from 1, the best), logprob (in nats, </s> included),
        score (of the beam), stop (eos, max_length or positions), status (ok, or error: and the reason)

    With --output, the results are in FILE.part until all are complete. An interrupted run, even a killed one, continues
    with --resume on the same kind of processor and writes the same bytes as an uninterrupted one. FILE.meta.json
    records what made the results.

    With --engine ray, a cluster translates any number of files; the results go to --output-dir.

    \b
    Example:
        xlm translate MODEL --from de --to en news.de.txt --num-beams 5
        xlm translate MODEL --from de --to en news.de.gz --format tsv --output news.tsv --resume
    """
    _check_usage(source, target, table_format, options)
    if uses_ray(only_local=("output", "device")):
        _on_ray(model, files, source, target, table_format or "text", options)
        return
    output: Path | None = options["output"]
    if output is None and options["resume"]:
        raise click.UsageError("--resume requires --output")
    if output is not None:
        check_output(output, files)
    corpus = open_corpus(files or (Path("-"),), format=options["input_format"], column=options["column"])
    from xlm.model.seq2seq import XLMEncoderDecoderModel
    from xlm.translation.table import TranslationTable, translated_lines
    from xlm.translation.translator import TranslationOptions, Translator

    translation = picked(TranslationOptions, options)
    writer = TableWriter(format=table_format, default="text")
    table = TranslationTable(format=writer.format if output is None else table_format or "text", files=len(files) > 1)
    opened = model_source(model, options, lang=source).open_as(XLMEncoderDecoderModel, few_rows=True, signed=True)
    bar = bar_of_rows(options["progress"], output=output)
    translator = Translator(
        opened.model,
        opened.tokenizer,
        source=source,
        target=target,
        options=translation,
        on_batch=bar.show_share,
    )
    signature = opened.signature(lang=f"{source}-{target}", long="none", protocol="translation")

    def compute(window: list[Row]) -> OutputLines:
        lines = translated_lines(translator, window, table)
        for row, reason in lines.reasons:
            click.echo(f"{corpus.place(row.number, file=row.file)}: {reason}", err=True)
        return lines

    typed = output is None and files in ((), (Path("-"),)) and sys.stdin.isatty()
    read_at_once = 1 if typed else translation.read_at_once
    run = CorpusRun(corpus, table, compute, read_at_once=read_at_once, bar=bar)
    settings = {
        "form": table.format,
        "options": asdict(translation),
        **{name: options[name] for name in ("column", "input_format")},
    }
    run.write(
        output or writer,
        signature=signature,
        settings=settings,
        device=opened.model.device,
        resume=options["resume"],
    )
    show_signature(signature)
    if run.counts or not run.problems:
        show_stops(run.counts, inputs="texts to translate")
    raise_if_damaged(corpus)
    _report_problems(run.problems, table.format)


def _check_usage(source: str, target: str, table_format: str | None, options: dict[str, Any]) -> None:
    num_beams, n_best = options["num_beams"], options["n_best"]
    if source == target:
        raise click.UsageError(f"--from and --to are the same language: {source}")
    if n_best > num_beams:
        raise click.UsageError(f"--n-best: expected at most {num_beams}, the number of --num-beams; found {n_best}")
    if num_beams == 1 and (options["length_penalty"] is not None or options["early_stopping"]):
        raise click.UsageError("--length-penalty and --early-stopping require --num-beams above 1")
    aligned = table_format is None and options["output"] is options["output_dir"] is None and sys.stdout.isatty()
    if n_best > 1 and table_format in (None, "text") and not aligned:
        raise click.UsageError("--n-best above 1 requires --format tsv or jsonl; text has one line a row")


def _on_ray(
    model: str,
    names: tuple[str, ...],
    source: str,
    target: str,
    table_format: str,
    options: dict[str, Any],
) -> None:
    files = inputs(names, options)
    from xlm.distributed.tasks import TranslateTask
    from xlm.translation.table import TranslationTable
    from xlm.translation.translator import TranslationOptions

    translation = picked(TranslationOptions, options)
    task = TranslateTask(
        model=worker_model(model, lang=source, options=options),
        target=target,
        table=TranslationTable(format=table_format, files=len(files) > 1),
        options=translation,
        read_at_once=translation.read_at_once,
    )
    total = run_on_ray(task, files, options)
    if total["counts"] or not total["problems"]:
        show_stops(total["counts"], inputs="texts to translate")
    _report_problems(total["problems"], table_format)


def _report_problems(problems: int, format: str) -> None:
    if not problems:
        return
    message = f"{counted(problems, 'row')} without a translation"
    if format == "text":
        raise click.ClickException(message)
    click.echo(f"{message}; the column status gives the reasons", err=True)
