"""``xlm evaluate``: measure how many minimal pairs, or items of a suite, a model judges correctly."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xlm.cli._inputs import refuse_inputs
from xlm.cli._options import (
    OUTPUT_PATH,
    Command,
    argument,
    batch_options,
    compute_options,
    lang_option,
    model_argument,
    model_source,
    option,
    picked,
    section,
    stride_option,
    tokenizer_options,
    wrong_usage,
)
from xlm.cli._output import TableWriter, show_signature

_COLUMNS = {
    "by": str,
    "name": str,
    "items": int,
    "correct": int,
    "accuracy": float,
    "low": float,
    "high": float,
    "ties": int,
    "unknown": int,
}


@click.command(cls=Command, short_help="Measure the accuracy on minimal pairs and suites")
@model_argument
@argument(
    "tasks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    nargs=-1,
    required=True,
    metavar="TASK...",
    help="Minimal pairs in the format of BLiMP (.jsonl) or CLAMS (.txt or .tsv), or a suite of SyntaxGym (.json); also "
    "gzipped (.gz), and - for standard input with --task-format",
)
@lang_option
@tokenizer_options
@section(
    "Input",
    option(
        "--task-format",
        "Format of the tasks",
        type=click.Choice(["blimp", "clams", "syntaxgym"]),
        show_default="by file name",
    ),
)
@section(
    "Output",
    option(
        "--format",
        "tsv: a header and tab-separated rows; jsonl: one JSON object a row",
        dest="table_format",
        type=click.Choice(["tsv", "jsonl"]),
        show_default="aligned columns on a terminal, else tsv",
    ),
    option("--items", "Table of all sentences and regions to write, .tsv or .jsonl", dest="output", type=OUTPUT_PATH),
)
@section(
    "Scoring",
    option("--no-closing", "Leave the closing </s> out, for sentences that may go on", is_flag=True),
)
@stride_option
@compute_options
@batch_options
def command(
    model: str, tasks: tuple[Path, ...], lang: str, table_format: str | None, output: Path | None, **options: Any
) -> None:
    r"""Write how many items of each TASK are correct.

    A minimal pair is correct if MODEL finds the good sentence more probable than the bad one, both with their closing
    </s>, or both without it (--no-closing). An item of a suite is correct if all predictions hold. Equal numbers count
    as wrong.

    \b
    Lines of a TASK:
        .jsonl:      {"sentence_good": "...", "sentence_bad": "..."}, with UID
                     as the task, linguistics_term and field as groups
        .txt, .tsv:  True, a tab and the good sentence; on the next line
                     False, a tab and the bad one

    \b
    Columns:
        by (task, prediction, linguistics_term, field or all), name, items,
        correct, accuracy, low and high (95% confidence interval, Wilson),
        ties (items that are wrong because two numbers are equal),
        unknown (items with <unk>, which replaces pieces outside the
        vocabulary)

    \b
    Columns of --items:
        task, item, condition, region (* for the whole sentence with </s>,
        unless --no-closing),
        text, surprisal (nats), unknown, correct, tie

    In a formula of a suite, (2;%match%) is the surprisal of region 2 of the condition "match"; a word belongs to the
    region in which it begins. Numbers are in bits, as in SyntaxGym.

    \b
    Examples:
        xlm evaluate MODEL blimp/data/*.jsonl --lang en --items items.tsv
        xlm evaluate MODEL de_evalset/simple_agrmt.txt --lang de
    """
    task_format, options["closing"] = options.pop("task_format"), not options.pop("no_closing")
    if task_format is None and Path("-") in tasks:
        raise click.UsageError("standard input requires --task-format blimp, clams or syntaxgym")
    form = "" if output is None else output.suffix.lower().removeprefix(".")
    if output is not None:
        if form not in ("tsv", "jsonl"):
            raise click.UsageError(f"--items {output}: the name must end in .tsv or .jsonl")
        refuse_inputs(output, tasks, option="--items")
    from xlm._io.atomic import check_target, write_text
    from xlm.corpus.tables import table_line, tsv_line
    from xlm.evaluation.evaluate import ITEM_COLUMNS, evaluate_tasks
    from xlm.evaluation.tasks import read_items
    from xlm.scoring.logprobs import checked_stride
    from xlm.scoring.options import ScoringOptions

    if output is not None:
        check_target(output)
    files = [read_items(task, format=task_format) for task in tasks]
    regions = any(condition.regions for items in files for item in items for condition in item.conditions)
    opened = model_source(model, options, lang=lang).open(offsets=regions, signed=True)
    with wrong_usage("stride"):
        stride = checked_stride(options["stride"], opened.model.config.max_position_embeddings)
        chosen = asdict(picked(ScoringOptions, options))
        evaluation = evaluate_tasks(opened.model, opened.tokenizer, files, lang=lang, progress=None, **chosen)
    if output is not None:
        lines = [table_line(ITEM_COLUMNS, row, format=form) for row in evaluation.rows()]
        write_text(output, (tsv_line(ITEM_COLUMNS) if form == "tsv" else "") + "".join(lines))
    table = TableWriter(format=table_format)
    table.start(_COLUMNS)
    table.write_rows(
        [
            (each.by, each.name, each.items, each.correct, each.accuracy, *each.interval, each.ties, each.unknown)
            for each in evaluation.accuracies
        ]
    )
    protocol = "sentence" if options["closing"] else "sentence without </s>"
    show_signature(opened.signature(lang=lang, long=f"stride {stride}", protocol=protocol))
