"""``xlm plot``: the surprisals of sentences as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xlm.cli._options import TEXT, computing, model_source, pipeline


@click.command(name="plot", short_help="The surprisal of each word as a picture.")
@click.argument("model")
@click.argument("texts", nargs=-1, type=TEXT, required=True, metavar="TEXT...")
@click.option(
    "--lang",
    "languages",
    multiple=True,
    required=True,
    metavar="L",
    help="Language: one for all texts, or one for each. With a single text, several compare it.",
)
@pipeline
@computing
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The picture, .png or .svg.",
)
@click.option("--unit", type=click.Choice(["bits", "nats"]), default="bits", show_default=True, help="Of surprisal.")
@click.option("--title", type=TEXT, help="Stands above the picture.")
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

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. A word is what stands between spaces; its surprisal is the negative log-probability of its
    tokens together, given what stands before it. Totals include the closing </s>.
    Needs matplotlib: pip install 'xlm[plot]'.

    \b
    Example:
        xlm plot MODEL --lang en "A dog runs on the beach." --output dog.svg
        xlm plot MODEL --lang en --lang de "A dog runs on the beach." --output both.png
        xlm plot MODEL --lang en "A dog runs." --lang de "Ein Hund rennt." --output two.png
    """
    if len(languages) not in (1, len(texts)) and len(texts) > 1:
        raise click.UsageError(
            f"--lang: one for all texts or one for each, not {len(languages)} for {len(texts)} texts"
        )
    if output.suffix.lower() not in (".png", ".svg"):
        raise click.UsageError(f"--output {output}: its name must end in .png or .svg")
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
