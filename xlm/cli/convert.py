"""``xlm convert``: convert checkpoints between formats."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from xlm.cli._options import MODEL_HELP, Command, argument, option, section
from xlm.cli._output import printable


@click.command(cls=Command, short_help="Convert a checkpoint to the transformers layout, or back")
@argument("source", help=MODEL_HELP)
@argument("target", type=click.Path(path_type=Path), help="Directory or .pth file to write; must not exist")
@section("Input", option("--codes", "BPE codes (fastBPE) of a .pth SOURCE", type=click.Path(path_type=Path)))
@section(
    "Output",
    option(
        "--to",
        "Format of TARGET: transformers (a directory) or original (a .pth file)",
        type=click.Choice(["transformers", "original"]),
        default="transformers",
    ),
    option(
        "--dtype",
        "Weight dtype of TARGET",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        show_default="that of SOURCE",
    ),
)
def command(
    source: str, target: Path, to: Literal["transformers", "original"], codes: Path | None, dtype: str | None
) -> None:
    r"""Convert the checkpoint SOURCE, of a language model or a translation model, to TARGET.

    The command reads TARGET back and compares it with SOURCE before it gives TARGET its name. If anything fails, it
    leaves nothing behind. It never executes anything that a file contains.

    A .pth file contains no BPE codes: without --codes, TARGET has the weights and the vocabulary only.

    A directory of a translation model has the form of the transformers layout, but opens with xlm only, because
    transformers has no such model.

    \b
    Examples:
        xlm convert best-valid_clm_ppl.pth my-model --codes codes_ende
        xlm convert my-model again.pth --to original
    """
    if to == "transformers" and target.suffix == ".pth":
        raise click.UsageError(
            f"TARGET {target} is a .pth file, but --to transformers writes a directory; add --to original"
        )
    from xlm.checkpoint.convert import convert

    report = convert(source, target, to=to, codes=codes, dtype=dtype)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(printable(report))
