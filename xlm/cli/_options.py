"""What the commands that read text with a model have in common on their command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.model.lm import XLMWithLMHeadModel
    from xlm.scoring.rows import Corpus

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

TEXT_FILES = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
"""A file of text, or ``-`` for standard input."""


class _Text(click.types.StringParamType):
    """Text on the command line; bytes that are not of the system's encoding arrive as halves of surrogate pairs."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text: str = super().convert(value, param, ctx)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            found = ascii(text[error.start])[1:-1]
            self.fail(f"{found} at character {error.start + 1} is no text; it must be UTF-8", param, ctx)
        return text


TEXT = _Text()
"""Text that stands on the command line itself."""

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


_COMPUTING: tuple[Decorator, ...] = (
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16", "float16", "int8", "auto"]),
        default="float32",
        show_default=True,
        help="Type of the weights. bfloat16 and float16 halve, int8 (CPU only) quarters the memory and the time of "
        "reading them; log-probabilities are then off by about 0.01 and 0.1 nats. auto: what the file holds.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, …"),
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

pipeline = _together(*_TOKENIZER)
"""Adds ``--preset P --codes FILE``."""

computing = _together(*_COMPUTING)
"""Adds ``--dtype`` and ``--device``; for ``open_model`` and ``made_fast``."""

one_language = _LANG
"""Adds ``--lang L``."""

scoring = _together(
    *_TOKENIZER,
    click.option(
        "--input-format",
        type=click.Choice(["text", "jsonl", "csv", "tsv", "parquet"]),
        help="Form of the input; by default by the files' names, text where they say nothing. A CSV cell that holds "
        "commas, quotes or line ends stands in quotes, its own doubled, and ends within a megabyte of lines.",
    ),
    click.option("--column", metavar="NAME", help="Column or key that holds the text.  [default: text]"),
    *_COMPUTING,
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


def open_corpus(files: Sequence[Path], *, form: str | None, column: str | None) -> Corpus:
    """The rows of a command line's files.

    Raises:
        UsageError: A column of plain text, or Parquet that is no plain file.
        DependencyError: Parquet, and pyarrow is not installed.
    """
    from xlm.scoring.rows import Corpus

    try:
        return Corpus(files, form=form, column=column)
    except InputError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def wrong_usage(*options: str) -> Iterator[None]:
    """Makes an error about some options, which only the model could tell, one of usage."""
    try:
        yield
    except InputError as error:
        if error.where in options:
            raise click.UsageError(str(error)) from error
        raise


def open_model(model: str, *, dtype: str, device: str) -> XLMWithLMHeadModel:
    """The model of a command line; ``made_fast`` makes of it what is computed with.

    Raises:
        InputError: There is no such device, or it cannot compute in that type.
        CheckpointError: There is no such model.
    """
    import torch

    from xlm.model.lm import XLMWithLMHeadModel

    missing = InputError(
        "there is no such device", where="--device", found=device, expected="cpu, or cuda where torch has it"
    )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise missing from error
    if torch.device(device).type not in ("cpu", "cuda"):
        raise missing  # meta, say, which computes nothing
    if dtype == "int8" and torch.device(device).type != "cpu":
        raise InputError(
            "int8 is for the CPU", where="--dtype, --device", found=device, expected="cpu", remedy="--dtype bfloat16"
        )
    return XLMWithLMHeadModel.from_pretrained(model, dtype="float32" if dtype == "int8" else dtype, device=device)


def made_fast(network: XLMWithLMHeadModel, *, dtype: str, few_rows: bool) -> XLMWithLMHeadModel:
    """The same model in the form that computes fastest: on a CPU, its matrices are packed.

    Args:
        network: What ``open_model`` returned.
        dtype: As for ``open_model``.
        few_rows: Whether it is to work on few tokens at a time, where packing pays in float32 too.
    """
    weights = str(network.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    if network.device.type != "cpu" or (weights == "float32" and not few_rows):
        return network
    return network.for_inference(weights)
