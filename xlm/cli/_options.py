"""What the commands that read text with a model have in common on their command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xlm.model.lm import XLMWithLMHeadModel

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

TEXT_FILES = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
"""A file of text, or ``-`` for standard input."""

_TOKENIZER = (
    click.option("--preset", metavar="P", help="Text pipeline; by default the model's own."),
    click.option(
        "--codes",
        type=click.Path(),
        metavar="FILE",
        help="BPE codes (fastBPE). Needed for a checkpoint of the original, which holds none.",
    ),
)
_LANG: Decorator = click.option(
    "--lang", required=True, metavar="L", help="Language of the text, one of the model's: en, de, …"
)


def _together(*parts: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for part in reversed(parts):
            command = part(command)
        return command

    return decorate


model_and_text = _together(
    click.argument("model"), click.argument("file", type=click.File("rb"), default="-"), _LANG, *_TOKENIZER
)
"""Adds ``MODEL [FILE] --lang L --preset P --codes FILE``; FILE arrives open for bytes."""

one_language = _LANG
"""Adds ``--lang L``."""

scoring = _together(
    *_TOKENIZER,
    click.option(
        "--input-format",
        type=click.Choice(["text", "jsonl", "csv", "tsv", "parquet"]),
        help="Form of the input; by default by the files' names, text where they say nothing.",
    ),
    click.option("--column", metavar="NAME", help="Column or key that holds the text.  [default: text]"),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "auto"]),
        default="float32",
        show_default=True,
        help="Type to compute in. bfloat16 is faster and good to two digits; auto: what the file holds.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, …"),
    click.option(
        "--stride",
        type=click.IntRange(1),
        metavar="N",
        help="A text longer than the model's positions is scored in windows, each next one N tokens further; every "
        "token is scored once.  [default: half of the positions]",
    ),
    click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Most rows of a batch."),
    click.option(
        "--batch-tokens", type=click.IntRange(1), metavar="N", help="Most tokens of a batch.  [default: by the device]"
    ),
)
"""Adds what ``xlm score`` and ``xlm perplexity`` share: the model's and the input's form, and sizes."""


def open_model(model: str, *, dtype: str, device: str) -> XLMWithLMHeadModel:
    """The model of a command line.

    Raises:
        InputError: There is no such device.
        CheckpointError: There is no such model.
    """
    import torch

    from xlm.errors import InputError
    from xlm.model.lm import XLMWithLMHeadModel

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "there is no such device", where="--device", found=device, expected="cpu, or cuda where torch has it"
        ) from error
    return XLMWithLMHeadModel.from_pretrained(model, dtype=dtype, device=device)
