"""The command ``xlm``: one file for each command.

This package imports only what ``--help`` needs. Commands import torch and other heavy libraries when they run.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

import click

from xlm._io.memory import limit_onednn_cache
from xlm._version import __version__
from xlm.errors import WriteError, XLMError, XLMWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

_TASKS = {
    "Convert and check models": ("convert", "parity"),
    "Work on texts": ("tokenize", "score", "perplexity", "evaluate", "generate", "translate"),
    "Look at a model": ("explore", "plot"),
    "Train models": ("learn-bpe", "prepare", "train", "train-report"),
}
COMMANDS = tuple(name for names in _TASKS.values() for name in names)
"""The commands in the order of ``xlm --help``."""


class _XLMGroup(click.Group):
    """The group of all commands. It imports a command when needed, and handles errors, warnings and interruptions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "bench":
            message = "benchmarks have moved: run python -m benchmarks in a checkout of the repository"
            click.echo(f"Error: {message}", err=True)
            ctx.exit(2)
        if cmd_name not in COMMANDS:
            return None
        name, attribute = ("train", "report") if cmd_name == "train-report" else (cmd_name, "command")
        command: click.Command = getattr(importlib.import_module(f"xlm.cli.{name.replace('-', '_')}"), attribute)
        # Click does not rewrap a paragraph after the character backspace. The commands write it as ``\b`` in raw
        # docstrings, which the linter requires, so it arrives as two characters.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        with formatter.section("Commands"):
            for task, names in _TASKS.items():
                with formatter.section(task):
                    commands = [(name, self.get_command(ctx, name)) for name in names]
                    formatter.write_dl(
                        [(name.ljust(width), command.get_short_help_str()) for name, command in commands if command]
                    )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("\0" in argument for argument in args):  # possible only where another program calls this function
            raise click.UsageError("an argument contains a null character", ctx)
        with _ending(ctx):  # --help and --version write here
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        limit_onednn_cache()
        with _ending(ctx), _warnings_as_lines():
            super().invoke(ctx)
            sys.stdout.flush()  # inside the block, which handles a closed pipe


@contextmanager
def _ending(ctx: click.Context) -> Iterator[None]:
    """End the command with the documented message and exit status if it fails or is interrupted."""
    try:
        yield
    except BrokenPipeError:
        ctx.exit(128 + 13)  # as if killed by SIGPIPE, a name that Windows lacks
    except KeyboardInterrupt:
        click.echo(err=True)  # ends the line on which the terminal shows ^C
        ctx.exit(128 + signal.SIGINT)
    except (XLMError, OSError) as error:
        if ctx.params.get("debug"):
            raise
        raise click.ClickException(_message(error)) from error


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show each warning of this library as one line on standard error, without its source line."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=XLMWarning)
        show_other = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, XLMWarning):
                click.echo(f"warning: {' '.join(str(message).split())}", err=True)
            else:
                show_other(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _message(error: XLMError | OSError) -> str:
    if isinstance(error, XLMError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


@click.group(
    cls=_XLMGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.help_option("-h", "--help", help="Show this help and exit")
@click.version_option(__version__, prog_name="xlm", help="Show the version and exit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, not only its message")
def xlm(debug: bool) -> None:
    """Convert, run, train and inspect XLM language models.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled model xlm-clm-ende-small, or an id on
    the Hugging Face hub such as xlm-clm-ende-1024, optionally with @revision. Files from the hub are downloaded once
    and cached. HF_HUB_OFFLINE=1 forbids downloads.

    Results go to standard output; progress and warnings go to standard error. The exit status is 0 on success, 1 on
    failure (for xlm parity, also if the numbers differ) and 2 on wrong usage.
    """


class _NoOutput(io.RawIOBase):
    """Stands in for standard output if that was closed when the process started. Writing to it is an error."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> NoReturn:
        raise WriteError(
            "the results cannot be written",
            where="standard output",
            found="closed",
            remedy="start the command without >&-",
        )


def _open_closed_streams() -> None:
    """Replace each standard stream that was closed at the start (``<&-``).

    Standard input is then empty, messages are discarded, and writing results is an error because nobody would see them.
    """
    # Open the null device before any other file: it takes the closed stream's file number, so no file opened later can
    # receive the stream's output.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, True)
        if name == "stdout":
            # Do not buffer: the interpreter would try to write buffered results again at exit.
            no_output = cast("io.BufferedIOBase", _NoOutput())
            sys.stdout = io.TextIOWrapper(no_output, encoding="utf-8", write_through=True)
        else:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


def _exit_on_signal(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)  # an exception, so that every block on the way removes its unfinished files


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    _open_closed_streams()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _exit_on_signal)
    xlm(prog_name="xlm")
    raise AssertionError("click exits by itself")
