"""What the commands that read text with a model have in common on their command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def model_and_text(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``MODEL [FILE] --lang L --preset P --codes FILE``; FILE arrives open for bytes."""
    parts = (
        click.argument("model"),
        click.argument("file", type=click.File("rb"), default="-"),
        click.option("--lang", required=True, metavar="L", help="Language of the text, one of the model's: en, de, …"),
        click.option("--preset", metavar="P", help="Text pipeline; by default the model's own."),
        click.option(
            "--codes",
            type=click.Path(),
            metavar="FILE",
            help="BPE codes (fastBPE). Needed for a checkpoint of the original, which holds none.",
        ),
    )
    for part in reversed(parts):
        command = part(command)
    return command
