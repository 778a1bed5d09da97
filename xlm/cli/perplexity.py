"""``xlm perplexity``: measure how well a model predicts texts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._inputs import open_corpus
from xlm.cli._options import (
    Command,
    batch_options,
    compute_options,
    files_argument,
    input_options,
    model_argument,
    model_source,
    option,
    section,
    stride_option,
    tokenizer_options,
    wrong_usage,
)
from xlm.cli._output import TableWriter, show_signature

if TYPE_CHECKING:
    from xlm.corpus.tables import Cell

_COLUMNS = {
    "lang": str,
    "perplexity": float,
    "tokens": int,
    "nats_per_token": float,
    "bits_per_character": float,
    "bits_per_byte": float,
    "texts": int,
    "unknown": int,
}


@click.command(cls=Command, short_help="Measure the perplexity of texts, by sentence or as the original does")
@model_argument
@files_argument
@section(
    "Input",
    option(
        "--lang",
        "Language of a file, one of the model's; repeat for each file, in the same order",
        dest="langs",
        required=True,
        multiple=True,
        metavar="LANG",
    ),
)
@tokenizer_options
@input_options
@section(
    "Output",
    option(
        "--format",
        "tsv: a header and tab-separated rows; jsonl: one JSON object a row, with null for infinite numbers",
        dest="table_format",
        type=click.Choice(["tsv", "jsonl"]),
        show_default="aligned columns on a terminal, else tsv",
    ),
)
@section(
    "Scoring",
    option(
        "--protocol",
        "sentence: score each row by itself, every token predicted; stream: evaluate as the original does, "
        "all rows as one sequence in windows, every token but the first of a window predicted",
        type=click.Choice(["sentence", "stream"]),
        default="sentence",
    ),
    option("--window", "Tokens in a window of the stream", type=click.IntRange(2), show_default="256"),
)
@stride_option
@compute_options
@batch_options
def command(
    model: str, files: tuple[Path, ...], langs: tuple[str, ...], table_format: str | None, **options: Any
) -> None:
    r"""Write the perplexity of MODEL on each of FILES, or on standard input.

    FILES have a format that xlm score reads. With several files, each in its own language, the last row is the mean of
    their perplexities, as the original computes it.

    \b
    Columns:
        lang, perplexity, tokens (predicted tokens), nats_per_token,
        bits_per_character, bits_per_byte (of the raw text, counting each row
        end as one; empty for the stream, which does not predict every token),
        texts, unknown (predicted tokens that are <unk>, which replaces pieces
        outside the vocabulary)

    \b
    Examples:
        xlm perplexity xlm-clm-ende-small --lang en news.en.txt
        xlm perplexity MODEL --lang de valid.de --lang en valid.en \
            --protocol stream --window 64
    """
    paths = files or (Path("-"),)
    if len(langs) != len(paths):
        found = f"languages: {len(langs)}, files: {len(paths)}"
        raise click.UsageError(f"--lang: give one language for each file; found {found}")
    if len(set(langs)) != len(langs):
        raise click.UsageError("two files have the same language: join them into one, which has one perplexity")
    if options["stride"] is not None and options["protocol"] == "stream":
        raise click.UsageError("--stride requires --protocol sentence; the windows of a stream do not overlap")
    if options["window"] is not None and options["protocol"] != "stream":
        raise click.UsageError("--window requires --protocol stream")
    corpora = {
        lang: open_corpus([path], format=options["input_format"], column=options["column"])
        for lang, path in zip(langs, paths, strict=True)
    }
    from xlm.scoring.perplexity import perplexity

    opened = model_source(model, options).open(signed=True)
    with ExitStack() as stack, wrong_usage("stride", "window"):
        for corpus in corpora.values():
            stack.callback(corpus.close)
        result = perplexity(
            opened.model,
            opened.tokenizer,
            {lang: corpus.texts() for lang, corpus in corpora.items()},
            **{name: options[name] for name in ("protocol", "window", "stride", "batch_size", "batch_tokens")},
        )
    rows: list[tuple[Cell, ...]] = [tuple(getattr(each, name) for name in _COLUMNS) for each in result.languages]
    if len(rows) > 1:
        rows.append(("mean", result.perplexity, *[None] * (len(_COLUMNS) - 2)))
    table = TableWriter(format=table_format)
    table.start(_COLUMNS)
    table.write_rows(rows)
    signature = opened.signature(
        lang="+".join(langs),
        protocol="sentence" if result.window is None else f"stream {result.window}",
        long="none" if result.stride is None else f"stride {result.stride}",
    )
    show_signature(signature, unknown=sum(each.unknown for each in result.languages))
