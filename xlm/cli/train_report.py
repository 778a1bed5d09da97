"""``xlm train-report``: the curves of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from xlm.cli._texts import printable


@click.command(short_help="The curves of a training run as a picture.")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The PNG file.  [default: RUN/report.png]"
)
def command(run: Path, output: Path | None) -> None:
    r"""Draws loss, perplexity of each language, learning rate and gradient norm of RUN into one PNG.

    RUN is the output directory of "xlm train"; it may still be going on. Needs matplotlib: pip install 'xlm[plot]'.

    \b
    Example:
        xlm train-report run --output run.png
    """
    from xlm.training.report import draw_report

    picture = output or run / "report.png"
    found = draw_report(run, picture)
    figures = f"{found['updates']:,} updates, loss {found['loss']:.4f}, {found['skipped']} steps skipped"
    click.echo(printable(f"{picture}: {figures}"))
    for language, value in found["perplexity"].items():
        click.echo(printable(f"perplexity {language}: {value:.3f}"))
    if found["best"] is not None:
        click.echo(f"lowest mean perplexity: {found['best']:.3f}")
