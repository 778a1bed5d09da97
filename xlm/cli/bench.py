"""``xlm bench``: measurements that anyone can repeat."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click


@click.command(short_help="Measure conversion and loading, beside transformers.")
@click.argument("what", type=click.Choice(["convert", "load"]))
@click.option("--against", type=click.Choice(["transformers"]), help="Measure this library too, in turn with xlm.")
@click.option(
    "--size",
    type=click.Choice(["published", "small"]),
    default="published",
    show_default=True,
    help="Size of the random model: that of xlm-clm-ende-1024 (570 MB), or one to try this command with.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often to measure.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write everything to this file.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory for the temporary files.  [default: the system's]",
)
def command(
    what: str, against: str | None, size: str, rounds: int, json_file: Path | None, scratch: Path | None
) -> None:
    r"""Measures WHAT on a model with random weights, and prints medians, spreads and ratios.

    convert: an original checkpoint to the transformers layout, beside cp and sha256.
    load: from_pretrained of the result, beside that of --against.

    Each measurement runs in a process of its own. Exits with 1 when a ratio is over its limit.

    \b
    Example:
      xlm bench load --against transformers
      xlm bench convert --json convert.json
    """
    if what == "convert" and against is not None:
        raise click.UsageError("transformers has no conversion to measure against")
    from xlm.bench.checkpoints import bench_convert, bench_load

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if what == "convert":
            report = bench_convert(Path(folder), size=size, rounds=rounds)
        else:
            report = bench_load(Path(folder), size=size, rounds=rounds, against=against)
    click.echo(str(report))
    if json_file is not None:
        report.write(json_file)
    if not all(bar.holds for bar in report.bars):
        raise SystemExit(1)
