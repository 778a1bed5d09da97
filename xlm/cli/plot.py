"""``xlm plot``: draw the surprisals of sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xlm.cli._options import (
    OUTPUT_PATH,
    TEXT,
    Command,
    argument,
    compute_options,
    model_argument,
    model_source,
    option,
    section,
    tokenizer_options,
)


@click.command(cls=Command, short_help="Draw the surprisal of each word")
@model_argument
@argument("texts", nargs=-1, type=TEXT, required=True, metavar="TEXT...", help="Sentence, one panel each")
@section(
    "Input",
    option(
        "--lang",
        "Language: one for all texts, or one for each; with a single text, several languages to compare",
        dest="languages",
        multiple=True,
        required=True,
        metavar="LANG",
    ),
)
@tokenizer_options
@section(
    "Output",
    option("--output", "Picture to write, .png, .svg or .pdf", type=OUTPUT_PATH, required=True),
    option("--unit", "Unit of surprisal", type=click.Choice(["bits", "nats"]), default="bits"),
    option("--title", "Title of the picture", type=TEXT),
)
@compute_options
def command(
    model: str,
    texts: tuple[str, ...],
    languages: tuple[str, ...],
    output: Path,
    unit: str,
    title: str | None,
    **options: Any,
) -> None:
    r"""Draw the surprisal of each word of TEXT, one panel per text.

    A word extends from space to space. Its surprisal is the negative log-probability of its tokens, given all tokens
    before it. Totals include the closing </s>. Requires matplotlib: pip install 'xlm[plot]'.

    \b
    Examples:
        xlm plot MODEL --lang en "A dog runs on the beach." --output dog.svg
        xlm plot MODEL --lang en --lang de "A dog runs." --output both.png
        xlm plot MODEL --lang en "A dog runs." --lang de "Ein Hund rennt." \
            --output two.png
    """
    if len(texts) > 1 and len(languages) not in (1, len(texts)):
        raise click.UsageError(
            f"--lang: give one language, or one for each text; found {len(languages)} for {len(texts)} texts"
        )
    if output.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"--output {output}: the name must end in .png, .svg or .pdf")
    from xlm._io.atomic import check_target
    from xlm.scoring.figure import check_matplotlib, draw_surprisals
    from xlm.scoring.score import score

    check_matplotlib()
    check_target(output)
    opened = model_source(model, options).open(few_rows=True)

    panels: list[tuple[str, tuple[str, ...]]]
    if len(texts) == 1:
        panels = [(texts[0], languages)]
    else:
        each = languages * len(texts) if len(languages) == 1 else languages
        panels = [(text, (lang,)) for text, lang in zip(texts, each, strict=True)]
    results = [
        [score(opened.model, opened.tokenizer, [text], lang=lang)[0] for lang in chosen] for text, chosen in panels
    ]
    draw_surprisals(results, output, unit=unit, title=title)
    click.echo(f"{output}: {', '.join(dict.fromkeys(languages))}", err=True)
