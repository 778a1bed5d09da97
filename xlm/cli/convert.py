"""``xlm convert``: checkpoints from one format to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xlm.cli._texts import printable


@click.command(short_help="Convert a checkpoint of the original to the transformers layout, or back.")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["transformers", "original"]),
    default="transformers",
    show_default=True,
    help="Format of TARGET: a directory (transformers) or a .pth file (original).",
)
@click.option("--codes", type=click.Path(path_type=Path), help="BPE codes of a .pth SOURCE, which holds none itself.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Type of the weights in TARGET.  [default: that of SOURCE]",
)
def command(
    source: str, target: Path, to: Literal["transformers", "original"], codes: Path | None, dtype: str | None
) -> None:
    r"""Converts the checkpoint SOURCE into TARGET, which must not exist yet.

    SOURCE is a .pth of the original, a directory in the transformers layout, the bundled xlm-clm-ende-small, or an id
    on the Hugging Face hub. What was written is read back and compared before it takes its name; when anything goes
    wrong, nothing is left behind. Nothing in a file is ever executed.

    Without --codes a .pth gives weights and vocabulary only, since it holds no BPE codes.

    \b
    Example:
      xlm convert best-valid_clm_ppl.pth my-model --codes codes_ende
      xlm convert my-model again.pth --to original
    """
    from xlm.checkpoint.convert import convert

    report = convert(source, target, to=to, codes=codes, dtype=dtype)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(printable(report))
