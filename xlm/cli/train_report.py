"""``xlm train-report``: draw the training curves of a run."""

from __future__ import annotations

from pathlib import Path

import click

from xlm.cli._texts import printable


@click.command(short_help="Draw the training curves of a run.")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The PNG file.  [default: RUN/report.png]"
)
def command(run: Path, output: Path | None) -> None:
    r"""Draw loss, perplexity of each language, learning rate and gradient norm of RUN as a PNG.

    RUN is the output directory of "xlm train", which may still be running. Needs matplotlib: pip install 'xlm[plot]'.

    \b
    Example:
        xlm train-report run --output run.png
    """
    from xlm.training.log import draw_report

    path = output or run / "report.png"
    report = draw_report(run, path)
    summary = f"{report['updates']:,} updates, loss {report['loss']:.4f}, {report['skipped']} steps skipped"
    click.echo(printable(f"{path}: {summary}"))
    for language, value in report["perplexity"].items():
        click.echo(printable(f"perplexity {language}: {value:.3f}"))
    if report["best"] is not None:
        click.echo(f"lowest mean perplexity: {report['best']:.3f}")
