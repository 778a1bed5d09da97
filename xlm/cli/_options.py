"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.corpus.rows import Corpus
    from xlm.scoring.options import ScoringOptions
    from xlm.scoring.signature import ModelSource

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Paths(click.Path):
    """Paths that are checked here, except with ``--engine ray``, which reads them elsewhere."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return str(value) if _read_elsewhere(ctx) else super().convert(value, param, ctx)


def _read_elsewhere(ctx: click.Context | None) -> bool:
    return ctx is not None and ctx.params.get("engine") == "ray"


TEXT_FILES = _Paths(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
"""A file of text, or ``-`` for standard input; with ``--engine ray``, any name."""

INPUT_FORMAT: Decorator = click.option(
    "--input-format",
    type=click.Choice(["text", "jsonl", "csv", "tsv", "parquet"]),
    help="Form of the input; by default by the files' names, text where they say nothing. A CSV cell that holds "
    "commas, quotes or line ends stands in quotes, its own doubled, and ends within a megabyte of lines.",
)
COLUMN: Decorator = click.option("--column", metavar="NAME", help="Column or key that holds the text.  [default: text]")


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
    click.argument("model"),
    click.argument("file", type=TEXT_FILES, default="-"),
    _LANG,
    *_TOKENIZER,
    INPUT_FORMAT,
    COLUMN,
)
"""Decorator that adds ``MODEL [FILE] --lang L --preset P --codes FILE --input-format F --column NAME``."""

pipeline = _together(*_TOKENIZER)
"""Decorator that adds ``--preset P --codes FILE``."""

computing = _together(*_COMPUTING)
"""Decorator that adds ``--dtype`` and ``--device``; for ``model_source``."""

one_language = _LANG
"""Decorator that adds ``--lang L``."""

scoring = _together(
    *_TOKENIZER,
    INPUT_FORMAT,
    COLUMN,
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
"""Decorator that adds what ``xlm score`` and ``xlm perplexity`` share: the model's and the input's form, and sizes."""


def open_corpus(files: Sequence[Path], *, form: str | None, column: str | None) -> Corpus:
    """Return the rows of files, after reading the beginning of each.

    Raises:
        UsageError: A column of plain text, or Parquet that is no plain file.
        InputError: No such file, a table without the column, a header that cannot be read, or a file in UTF-16.
        DependencyError: Parquet, and pyarrow is not installed.
    """
    from xlm.corpus.rows import Corpus

    try:
        corpus = Corpus(files, format=form, column=column)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    for file in files:
        if str(file) != "-" and not file.exists():
            raise InputError("no such file", where=file)
    corpus.check()
    return corpus


def model_source(model: str, options: Mapping[str, Any], *, lang: str | None = None) -> ModelSource:
    """Return the model of a command line that has ``pipeline`` and ``computing``."""
    from xlm.scoring.signature import ModelSource

    return ModelSource(
        model=model, lang=lang, **{name: options[name] for name in ("preset", "codes", "dtype", "device")}
    )


def scoring_options(options: Mapping[str, Any]) -> ScoringOptions:
    """Return the options of ``score`` that a command line names."""
    from dataclasses import fields

    from xlm.scoring.options import ScoringOptions

    names = {field.name for field in fields(ScoringOptions)}
    return ScoringOptions(**{name: value for name, value in options.items() if name in names})


@contextmanager
def wrong_usage(*options: str) -> Iterator[None]:
    """Turn an error about some options, which only shows with the model, into a usage error."""
    try:
        yield
    except InputError as error:
        if error.where in options:
            raise click.UsageError(str(error)) from error
        raise
