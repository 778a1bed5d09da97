"""``xlm perplexity``: how well a model predicts texts."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._lines import show_signature, write_line
from xlm.cli._options import TEXT_FILES, model_source, open_corpus, scoring, wrong_usage

if TYPE_CHECKING:
    from xlm.scoring.perplexity import LanguagePerplexity
    from xlm.scoring.table import Cell

_COLUMNS = ("lang", "perplexity", "tokens", "nats_per_token", "bits_per_character", "bits_per_byte", "texts", "unknown")


@click.command(name="perplexity", short_help="Perplexity of texts, by sentence or by the original's stream.")
@click.argument("model")
@click.argument("files", nargs=-1, type=TEXT_FILES)
@click.option(
    "--lang",
    "langs",
    required=True,
    multiple=True,
    metavar="L",
    help="Language of a file, one of the model's; once for each file, in their order.",
)
@click.option(
    "--protocol",
    type=click.Choice(["sentence", "stream"]),
    default="sentence",
    show_default=True,
    help="sentence: each row by itself, every token predicted. stream: exactly the original's evaluation, all rows as "
    "one sequence in windows of --window, of which all tokens but the first are predicted.",
)
@click.option("--window", type=click.IntRange(2), metavar="N", help="Tokens of a window of the stream.  [default: 256]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["tsv", "jsonl"]),
    default="tsv",
    show_default=True,
    help="Form of the output: a header and tab-separated rows, or one JSON object a row, null for what is infinite.",
)
@scoring
def command(model: str, files: tuple[Path, ...], langs: tuple[str, ...], form: str, **options: Any) -> None:
    r"""Write the perplexity of MODEL on each of FILES, or on standard input.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. FILES are what xlm score reads. With several files, each of its own language, a last row gives
    the mean of their perplexities, as the original does.

    \b
    Columns:
        lang, perplexity, tokens (predicted), nats_per_token, bits_per_character and bits_per_byte (of the raw text,
        the end of each row counting as one; empty for the stream, which does not predict every token), texts, unknown
        (how many of the predicted tokens are <unk>, which stands for what the vocabulary lacks)

    \b
    Example:
        xlm perplexity xlm-clm-ende-small --lang en news.en.txt
        xlm perplexity MODEL --lang de valid.de --lang en valid.en --protocol stream --window 64
    """
    paths = files or (Path("-"),)
    if len(langs) != len(paths):
        raise click.UsageError(f"{len(langs)} languages for {len(paths)} files: give --lang once for each file")
    if len(set(langs)) != len(langs):
        raise click.UsageError("give one file a language: the perplexity of two files is that of both in one")
    if options["stride"] is not None and options["protocol"] == "stream":
        raise click.UsageError("--stride goes with --protocol sentence; the windows of the stream do not overlap")
    if options["window"] is not None and options["protocol"] != "stream":
        raise click.UsageError("--window goes with --protocol stream")
    corpora = {
        lang: open_corpus([path], form=options["input_format"], column=options["column"])
        for lang, path in zip(langs, paths, strict=True)
    }
    from xlm.scoring.perplexity import perplexity
    from xlm.scoring.table import tsv_line

    opened = model_source(model, options).open(signed=True)
    with ExitStack() as stack, wrong_usage("stride", "window"):
        for corpus in corpora.values():
            stack.callback(corpus.close)
        result = perplexity(
            opened.model,
            opened.tokenizer,
            {lang: corpus.texts() for lang, corpus in corpora.items()},
            protocol=options["protocol"],
            window=options["window"],
            stride=options["stride"],
            batch_size=options["batch_size"],
            batch_tokens=options["batch_tokens"],
        )
    rows = [_cells(each) for each in result.languages]
    if len(rows) > 1:
        rows.append(("mean", result.perplexity, *[None] * (len(_COLUMNS) - 2)))
    if form == "tsv":
        click.echo(tsv_line(_COLUMNS).encode(), nl=False)
    for row in rows:
        if form == "tsv":
            click.echo(tsv_line(row).encode(), nl=False)
        else:
            finite = [None if isinstance(x, float) and not math.isfinite(x) else x for x in row]
            write_line(json.dumps(dict(zip(_COLUMNS, finite, strict=True)), ensure_ascii=False, allow_nan=False))
    protocol = "sentence" if result.window is None else f"stream {result.window}"
    long = "none" if result.stride is None else f"stride {result.stride}"
    made_with = opened.signature(lang="+".join(langs), protocol=protocol, long=long)
    show_signature(made_with, unknown=sum(each.unknown for each in result.languages))


def _cells(result: LanguagePerplexity) -> tuple[Cell, ...]:
    return (
        result.lang,
        result.perplexity,
        result.tokens,
        result.nats_per_token,
        result.bits_per_character,
        result.bits_per_byte,
        result.texts,
        result.unknown,
    )
