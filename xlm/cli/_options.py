"""Options and arguments that several commands share, and help that lists them by section."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.scoring.signature import ModelSource

_Options = TypeVar("_Options")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_METAVARS = ((click.types.IntParamType, "N"), (click.types.FloatParamType, "X"), (click.Path, "FILE"))

_SECTIONS = (
    "Arguments",
    "Input",
    "Output",
    "Scoring",
    "Documents and columns",
    "Generation",
    "Training",
    "Server",
    "Performance",
    "Ray",
    "Other",
)


class Command(click.Command):
    """Command whose help lists arguments and options by section."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option ``--help``, with a help text in the form of the others."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this help and exit"
        return option

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help by section; ``argument`` and ``option`` define the section of a parameter."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in _SECTIONS}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, _Argument):
                sections["Arguments"].append((parameter.make_metavar(ctx), parameter.help))
            elif (record := parameter.get_help_record(ctx)) is not None:
                sections[_section(parameter)].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


class _Argument(click.Argument):
    help: str

    def __init__(self, *args: Any, help: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.help = help  # older versions of click accept no help in the constructor


class _Option(click.Option):
    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section
        if self.metavar is None:
            self.metavar = next((name for kind, name in _METAVARS if isinstance(self.type, kind)), None)

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)  # left out of the help; the error for a wrong value names the range
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default  # without click's parentheses
        return extra


def _section(parameter: click.Parameter) -> str:
    return parameter.section if isinstance(parameter, _Option) else "Other"


def argument(name: str, *, help: str, **attributes: Any) -> Decorator:
    """Return a decorator that adds an argument with a help text."""
    return click.argument(name, cls=_Argument, help=help, **attributes)


def option(flag: str, help: str, *, dest: str | None = None, **attributes: Any) -> Callable[[str], Decorator]:
    """Define an option; pass the result to ``section``, which adds it to a command.

    Args:
        flag: Flag on the command line.
        help: Imperative or noun phrase without a full stop.
        dest: Name of the parameter; ``None`` derives it from the flag.
        **attributes: Arguments of ``click.option``.
    """
    names = (flag,) if dest is None else (flag, dest)
    return lambda title: click.option(*names, cls=_Option, help=help, section=title, **attributes)


def section(title: str, *options: Callable[[str], Decorator]) -> Decorator:
    """Return a decorator that adds options to a section of the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for add_to in reversed(options):
            command = add_to(title)(command)
        return command

    return decorate


class _InputPath(click.Path):
    """Path of an existing file; with ``--engine ray``, any name, because the workers read it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if ctx is not None and ctx.params.get("engine") == "ray":
            return str(value)
        return super().convert(value, param, ctx)


INPUT_PATH = _InputPath(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
"""A text file, or ``-`` for standard input."""
OUTPUT_PATH = click.Path(path_type=Path, dir_okay=False)
"""A file to write."""


class _Text(click.types.StringParamType):
    """Text on the command line. Bytes that the system cannot decode arrive as lone surrogates."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text: str = super().convert(value, param, ctx)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            character = ascii(text[error.start])[1:-1]
            self.fail(f"not UTF-8: {character} at character {error.start + 1}", param, ctx)
        return text


TEXT = _Text()
"""Text given on the command line itself."""

PRESETS = "original, transformers or transformers-v4"
"""Values of ``--preset``, for help texts. They are repeated here because importing the tokenizer takes long."""
MODEL_HELP = "Model directory, checkpoint of the original (.pth), bundled model or Hugging Face hub id"
FILE_HELP = (
    "UTF-8 text with one sentence a line, or JSON lines, CSV, TSV or Parquet by file name; all but Parquet also "
    "gzipped (.gz)"
)
_FILES_HELP = f"{FILE_HELP}  [default: standard input]"

model_argument = argument("model", help=MODEL_HELP)
file_argument = argument("file", type=INPUT_PATH, default="-", help=_FILES_HELP)
files_argument = argument("files", type=INPUT_PATH, nargs=-1, help=_FILES_HELP)


def _last_language(ctx: click.Context, param: click.Parameter, languages: tuple[str, ...]) -> str:
    """Return the last value of ``--lang``. Warn if there are several, because other commands use all of them."""
    if len(languages) > 1:
        click.echo(f"warning: all texts are in one language, the last of --lang: {languages[-1]}", err=True)
    return languages[-1]


lang_option = section(
    "Input",
    option(
        "--lang",
        "Language of the text, such as en; one of the model's",
        required=True,
        multiple=True,
        callback=_last_language,
        metavar="LANG",
    ),
)
tokenizer_options = section(
    "Input",
    option("--codes", "BPE codes (fastBPE); a checkpoint of the original requires them", type=click.Path()),
    option("--preset", f"Text pipeline: {PRESETS}", metavar="NAME", show_default="the model's own"),
)
input_options = section(
    "Input",
    option(
        "--input-format",
        "Format of the input files; in CSV and TSV, a quoted cell may span lines",
        type=click.Choice(["text", "jsonl", "csv", "tsv", "parquet"]),
        show_default="by file name, else text",
    ),
    option("--column", "Column or key that holds the text", metavar="NAME", show_default="text"),
)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--lang`` and the options of the tokenizer and of the input."""
    return lang_option(tokenizer_options(input_options(command)))


workers_option = section(
    "Performance", option("--workers", "Number of worker processes", type=click.IntRange(1), default=1)
)
compute_options = section(
    "Performance",
    option(
        "--dtype",
        "Weight dtype; bfloat16 and float16 halve the memory of the matrices and change log-probabilities by about "
        "0.01 nats, int8 (CPU only) quarters it and changes them by about 0.1; on CPUs with instructions for bfloat16 "
        "or int8, matrices of that dtype are stored twice; auto keeps the dtype of the file",
        type=click.Choice(["float32", "bfloat16", "float16", "int8", "auto"]),
        default="float32",
    ),
    option("--device", "Device to compute on: cpu, cuda, cuda:1, …", default="cpu", metavar="DEVICE"),
)
stride_option = section(
    "Scoring",
    option(
        "--stride",
        "Tokens from one window to the next, in a text that exceeds the model's positions; every token is scored once",
        type=click.IntRange(1),
        show_default="half of the positions",
    ),
)
batch_options = section(
    "Performance",
    option("--batch-size", "Maximum rows in a batch", type=click.IntRange(1), show_default="no limit"),
    option("--batch-tokens", "Maximum tokens in a batch", type=click.IntRange(1), show_default="by the device"),
)


def model_source(model: str, options: Mapping[str, Any], *, lang: str | None = None) -> ModelSource:
    """Return the ``ModelSource`` of a command that has ``tokenizer_options`` and ``compute_options``."""
    from xlm.scoring.signature import ModelSource

    return ModelSource(
        model=model, lang=lang, **{name: options[name] for name in ("preset", "codes", "dtype", "device")}
    )


def picked(kind: type[_Options], options: Mapping[str, Any]) -> _Options:
    """Return the options that a dataclass of the library holds, from those of a command; unset ones are left out."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names if options.get(name) is not None})


@contextmanager
def wrong_usage(*options: str) -> Iterator[None]:
    """Turn an ``InputError`` about one of these options, raised after the model was opened, into a usage error."""
    try:
        yield
    except InputError as error:
        if error.where in options:
            raise click.UsageError(str(error)) from error
        raise
