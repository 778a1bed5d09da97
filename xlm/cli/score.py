"""``xlm score``: compute log-probabilities of texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._distributed import engines, inputs, run_on_ray, uses_ray, worker_model
from xlm.cli._inputs import open_corpus
from xlm.cli._options import (
    OUTPUT_PATH,
    Command,
    batch_options,
    compute_options,
    files_argument,
    model_argument,
    model_source,
    option,
    picked,
    section,
    stride_option,
    text_options,
    wrong_usage,
)
from xlm.cli._output import TableWriter, counted, show_signature
from xlm.cli._run import CorpusRun, bar_of_rows, check_output, raise_if_damaged

if TYPE_CHECKING:
    from collections.abc import Callable

    from xlm.scoring.layout import Layout
    from xlm.scoring.signature import Signature
    from xlm.scoring.table import ScoreTable

_RECORDED = ("column", "input_format", "batch_size", "batch_tokens", "read_ahead")
"""Options that identify a run to resume, besides those in the signature and the table."""
_OF_COLUMNS = ("group_by", "word_column", "prefix_column", "lang_column", "region_column", "keep_columns")
"""Options that keep all columns."""
_LAID_OUT = ("documents", "split_sentences", *_OF_COLUMNS)
"""Options for documents and columns."""


@click.command(cls=Command, short_help="Compute the log-probability of each sentence, word or token")
@model_argument
@files_argument
@text_options
@section(
    "Output",
    option(
        "--by",
        "Unit of one row of output; region requires --region-column",
        type=click.Choice(["sentence", "word", "token", "region"]),
        show_default="sentence, or word with --word-column",
    ),
    option("--output", "File to write", type=OUTPUT_PATH, show_default="standard output"),
    option(
        "--format",
        "tsv: a header and tab-separated rows, with double quotes around a cell that contains a quote, a tab "
        "or a line end; jsonl: one JSON object a row; parquet: unrounded numbers, requires --output or "
        "--output-dir",
        dest="table_format",
        type=click.Choice(["tsv", "jsonl", "parquet"]),
        show_default="aligned columns on a terminal, else tsv",
    ),
    option(
        "--unit",
        "Unit of all log-probabilities, surprisals and entropies",
        type=click.Choice(["nats", "bits"]),
        default="nats",
    ),
    option("--bits", "The same as --unit bits", is_flag=True),
    option("--ranks", "Add the rank of each token, or of the first one of each word; 1 is the best", is_flag=True),
    option(
        "--entropy",
        "Add the entropy of the prediction of each token, or of the first one of each word; for words, also by "
        "how much it is higher than that behind the word",
        dest="entropies",
        is_flag=True,
    ),
    option(
        "--top",
        "Add the N most likely tokens in place of each token, or of the first one of each word, with their "
        "log-probabilities, as JSON",
        type=click.IntRange(1),
        metavar="N",
    ),
    option("--resume", "Continue the interrupted run of this --output or --output-dir", is_flag=True),
    option("--progress/--no-progress", "Show progress", default=None, show_default="on a terminal"),
)
@section(
    "Scoring",
    option(
        "--too-long",
        "Treatment of a text that exceeds the model's positions: score it in windows, or give it an error as status",
        type=click.Choice(["windows", "refuse"]),
        default="windows",
    ),
    option("--no-closing", "Do not score the closing </s>, for texts that are beginnings of sentences", is_flag=True),
)
@section(
    "Documents and columns",
    option(
        "--documents",
        "Score each row given those before it in its document, with </s> between them; blank rows separate documents "
        "and have no row of output",
        is_flag=True,
    ),
    option(
        "--split-sentences",
        "Split each row into sentences, which are those of a document (pip install 'xlm[sentences]'); with "
        "--documents, the rows between blank rows are its paragraphs",
        is_flag=True,
    ),
    option(
        "--group-by",
        "Column whose equal values, in consecutive rows, mark the sentences of one document, or with --word-column the "
        "words of one text; with --word-column also twice: documents, then texts",
        multiple=True,
        metavar="NAME",
    ),
    option("--word-column", "Column with one word a row; requires --group-by", metavar="NAME"),
    option("--prefix-column", "Column of what each text is conditioned on, which is not scored", metavar="NAME"),
    option(
        "--lang-column",
        "Column of the language of each text or word, or of the languages of the words of a text, those of its prefix "
        "first, with blanks between them; an empty cell stands for --lang",
        metavar="NAME",
    ),
    option(
        "--region-column",
        "Column of spans of characters, such as 0-7 8-12; with --word-column, of a label for each word, where equal "
        "labels in consecutive rows are one region",
        metavar="NAME",
    ),
    option("--keep-columns", "Keep all columns of the input, as the options above do", is_flag=True),
)
@stride_option
@compute_options
@batch_options
@section(
    "Performance",
    option(
        "--read-ahead",
        "Rows to read before scoring, so that rows of one length share a batch; 1 scores each row at once",
        type=click.IntRange(1),
        show_default="4096, or 1 for lines typed at a terminal",
    ),
)
@engines()
def command(model: str, files: tuple[Any, ...], by: str | None, table_format: str | None, **options: Any) -> None:
    r"""Write the log-probability of each row of FILES, or of standard input, in nats (natural logarithms) or bits.

    Each row is scored by itself, and each has at least one row of output, in order. The opening token is given. The
    model predicts, and "tokens" counts, every other token and the closing </s>, so an empty row counts 1. The last
    column, "status", is "ok", "empty", "long: N windows", or "error: " and the reason why the row has no numbers.

    \b
    Columns, after "file" if there are several:
        --by sentence: line, tokens, logprob (their sum), unknown, text, status
        --by word:     line, word, start, end, tokens, logprob, unknown, text,
                       status
        --by token:    line, position, id, token, logprob, unknown, status

    "line" is the number of the row in its file, not counting a header; "word" and "position" are numbers within the
    row. All three start at 1. "start" and "end" are characters of the row, from 0. A word extends from space to space,
    punctuation included; the closing </s> is a row of its own, at the end. "unknown" is the number of tokens of a
    sentence that are <unk>, which replaces pieces outside the vocabulary. For a token, or a word with any such token,
    it is 1, else 0 (true or false with --format jsonl).

    With --documents or --group-by, each sentence is scored given the sentences before it. With --split-sentences,
    "sentence" follows "line": the number of the sentence in its row, and "start" and "end" are characters of the row.
    With any further option of "Documents and columns", the input must have columns. All of them are kept (for JSON
    lines, the keys of the first row of each file), and these follow:

    \b
        --by sentence: tokens, surprisal, unknown
        --by word:     word_number, word, start, end, tokens, surprisal,
                       surprisal_without_punctuation, unknown
        --by token:    position, id, token, surprisal, unknown
        --by region:   region_number, start, end, tokens, surprisal, unknown

    After logprob or surprisal come, if requested, rank, entropy, entropy_reduction (not by token) and top. Those
    of a word or region are about its first token.

    With --word-column, there is one row for each row of the input, without the closing </s>. The column "word" is then
    that of the input. "surprisal_without_punctuation" leaves out the punctuation at both ends of a word.

    With --output, the results are in FILE.part until all are complete. An interrupted run, even a killed one, continues
    with --resume on the same kind of processor and writes the same bytes as an uninterrupted one. If FILE is complete,
    --resume reads the input again to check that it has not changed. FILE.meta.json records what made the results. At
    the end, the command writes the same signature to standard error, with the number of <unk> tokens.

    With --engine ray, a cluster scores any number of files. The results go to --output-dir. On the same kind of
    processor, they equal those of --engine local in every digit.

    \b
    Examples:
        echo "The old man" | xlm score xlm-clm-ende-small --lang en --by token
        xlm score MODEL --lang de news.de.gz --output news.tsv --resume
        xlm score MODEL --lang en stories.csv --word-column word --group-by story --group-by sentence
    """
    by = by or ("sentence" if options["word_column"] is None else "word")
    options["top"], options["closing"] = options["top"] or 0, not options.pop("no_closing")
    for flag, given in (("--ranks", options["ranks"]), ("--entropy", options["entropies"]), ("--top", options["top"])):
        if given and by == "sentence":
            raise click.UsageError(f"{flag} requires --by token, word or region; found --by {by}")
    if options.pop("bits"):
        options["unit"] = "bits"
    if options["read_ahead"] is None:
        from xlm.corpus.read_ahead import READ_AHEAD

        typed = files in ((), (Path("-"),)) and options["output"] is None and sys.stdin.isatty()
        options["read_ahead"] = 1 if typed else READ_AHEAD
    ray = uses_ray(only_local=("output", "device"))
    layout = _layout(by, options)
    keeps = any(options[name] for name in _OF_COLUMNS)
    if ray:
        _on_ray(model, files, layout, by=by, form=table_format or "tsv", keeps=keeps, options=options)
        return
    output: Path | None = options["output"]
    for flag, given in (("--resume", options["resume"]), ("--format parquet", table_format == "parquet")):
        if given and output is None:
            raise click.UsageError(f"{flag} requires --output FILE")
    if output is not None:
        check_output(output, files)
    files = files or (Path("-"),)
    column = options["word_column"] or options["column"]
    corpus = open_corpus(files, format=options["input_format"], column=column, whole=keeps)
    kept = tuple(corpus.columns(required=layout.columns)) if keeps else None
    writer = TableWriter(format=table_format)
    table_format = writer.format if output is None else table_format or "tsv"
    table = _table(by, table_format, files=len(files) > 1, options=options, kept=kept)
    opened = model_source(model, options, lang=options["lang"]).open(offsets=by in ("word", "region"), signed=True)
    from xlm.scoring.options import ScoringOptions
    from xlm.scoring.scorer import Scorer
    from xlm.scoring.table import scored_lines

    bar = bar_of_rows(options["progress"], output=output)
    with wrong_usage("stride"):
        scorer = Scorer(
            opened.model,
            opened.tokenizer,
            lang=options["lang"],
            options=picked(ScoringOptions, options),
            on_batch=bar.show_share,
        )
    signature = opened.signature(**layout.signature_fields(scorer), unit=table.log_unit)
    run = CorpusRun(
        corpus,
        table,
        lambda window: scored_lines(scorer, window, table, layout),
        read_at_once=options["read_ahead"],
        bar=bar,
        groups=layout.groups_of_file,
    )
    settings = {
        "by": by,
        "form": table_format,
        **{name: options[name] for name in _RECORDED},
        **{name: options[name] for name in _LAID_OUT if options[name]},
        **({"top": options["top"]} if options["top"] else {}),
    }
    run.write(
        output or writer,
        signature=signature,
        settings=settings,
        device=scorer.model.device,
        resume=options["resume"],
        convert=_to_parquet(table, signature),
    )
    show_signature(signature, unknown=run.counts["unknown"])
    if run.problems:
        click.echo(f"{counted(run.problems, 'row')} could not be scored; the column status gives the reasons", err=True)
    raise_if_damaged(corpus)


def _on_ray(
    model: str, names: tuple[str, ...], layout: Layout, *, by: str, form: str, keeps: bool, options: dict[str, Any]
) -> None:
    options = {**options, "column": options["word_column"] or options["column"]}
    files = inputs(names, options)
    from xlm.corpus.rows import Corpus
    from xlm.distributed.tasks import ScoreTask
    from xlm.scoring.options import ScoringOptions

    kept = None
    if keeps:
        corpus = Corpus(files, format=options["input_format"], column=options["column"], whole=True)
        kept = tuple(corpus.columns(required=layout.columns))
    task = ScoreTask(
        model=worker_model(model, lang=options["lang"], options=options),
        table=_table(by, form, files=len(files) > 1, options=options, kept=kept),
        options=picked(ScoringOptions, options),
        layout=layout,
        read_at_once=options["read_ahead"],
    )
    run_on_ray(task, files, options)


def _layout(by: str, options: dict[str, Any]) -> Layout:
    """Return what the rows and columns of the input stand for."""
    from xlm.scoring.layout import Layout

    words = options["word_column"]
    if words is not None and options["column"] is not None:
        raise click.UsageError("--word-column and --column exclude each other")
    layout = Layout(
        lang=options["lang"],
        text=words or options["column"] or "text",
        words=words is not None,
        documents=options["documents"],
        group_by=options["group_by"],
        split_sentences=options["split_sentences"],
        prefix=options["prefix_column"],
        languages=options["lang_column"],
        regions=options["region_column"],
    )
    with wrong_usage("by", "group_by", "split_sentences"):
        layout.check(by)
    return layout


def _table(
    by: str, form: str, *, files: bool, options: dict[str, Any], kept: tuple[str, ...] | None = None
) -> ScoreTable:
    from xlm.scoring.table import ScoreTable

    return ScoreTable(
        unit="given word" if options["word_column"] is not None and by == "word" else by,
        format=form,
        files=files,
        sentences=options["split_sentences"],
        log_unit=options["unit"],
        top=options["top"] > 0,
        kept=kept,
        **{name: options[name] for name in ("ranks", "entropies")},
    )


def _to_parquet(table: ScoreTable, signature: Signature) -> Callable[[Path, Path], None] | None:
    if table.format != "parquet":
        return None
    return lambda lines, target: table.write_parquet(lines, target, metadata={"xlm.signature": str(signature)})
