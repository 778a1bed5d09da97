"""The command ``xlm``: one file a command, each with a ``click`` command of the name ``command``.

Only what ``--help`` needs is imported here and at the head of those files; torch and the like inside the commands.
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

from xlm._version import __version__
from xlm.errors import WriteError, XLMError, XLMWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = (
    "convert",
    "parity",
    "tokenize",
    "score",
    "perplexity",
    "generate",
    "explore",
    "plot",
    "learn-bpe",
    "prepare",
    "train",
    "train-report",
)
"""The commands in the order of ``xlm --help``; each is ``xlm.cli.NAME.command``, an underscore for a dash."""
_MOVED = ("bench",)


class _XLMGroup(click.Group):
    """The commands, imported when asked for, and what their errors, warnings and interruptions look like."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS + _MOVED:
            return None
        command: click.Command = importlib.import_module(f"xlm.cli.{cmd_name.replace('-', '_')}").command
        # Docstrings are raw, as the linter wants them, and so hold click's mark for "do not rewrap" as two characters.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("\0" in argument for argument in args):  # which only a program that calls ours can give
            raise click.UsageError("an argument holds a null character", ctx)
        with _ending(ctx):  # --help and --version write here
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        with _ending(ctx), _warnings_as_lines():
            super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has gone is still handled


@contextmanager
def _ending(ctx: click.Context) -> Iterator[None]:
    """Ends the command as the contract says when its work is interrupted or fails."""
    try:
        yield
    except BrokenPipeError:
        # The reader of our output has gone (``| head``): end as other programs do, by that signal's status.
        ctx.exit(128 + 13)  # SIGPIPE, which Windows does not name
    except KeyboardInterrupt:
        click.echo(err=True)  # ends the line on which the terminal showed ^C
        ctx.exit(128 + signal.SIGINT)
    except (XLMError, OSError) as error:
        if ctx.params.get("debug"):
            raise
        raise click.ClickException(_message(error)) from error


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Shows each of our warnings as one line on stderr, without the source line it came from."""
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=XLMWarning)
        otherwise = warnings.showwarning

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
                otherwise(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _message(error: XLMError | OSError) -> str:
    if isinstance(error, XLMError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


@click.group(cls=_XLMGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xlm")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, not only its message.")
def xlm(debug: bool) -> None:
    """XLM causal language models: the original's numbers, from converted weights.

    A MODEL that is neither a directory nor a file is the bundled xlm-clm-ende-small, or an id on the Hugging Face hub,
    such as xlm-clm-ende-1024, perhaps with @revision; its files are fetched once and kept. HF_HUB_OFFLINE=1 fetches
    nothing.

    Results go to standard output, progress and warnings to standard error. Exit status: 0 done, 1 the work failed or
    parity does not hold, 2 wrong usage.
    """


class _NoOutput(io.RawIOBase):
    """Standard output that this process was started without."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> NoReturn:
        raise WriteError(
            "the results cannot be written", where="standard output", found="closed", remedy="leave >&- out"
        )


def _open_closed_streams() -> None:
    """Puts a stream in the place of each standard one that this process was started without (``<&-``).

    Input is empty and messages go nowhere; results, which nobody would see, are an error when they are written.
    """
    # First of all, so that it takes the place of that number too, where no file of ours, nor of a process that we
    # start, may be written to by others.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, True)
        if name == "stdout":
            # Without a buffer, from which the interpreter would try once more, as it ends, to write what failed.
            nowhere = cast("io.BufferedIOBase", _NoOutput())
            sys.stdout = io.TextIOWrapper(nowhere, encoding="utf-8", write_through=True)
        else:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


def _end(number: int, _: object) -> NoReturn:
    # As an exception it passes through every block that removes what is half-written.
    sys.exit(128 + number)


def main() -> NoReturn:
    """Runs the command line of this process and exits with its status."""
    _open_closed_streams()
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _end)
    xlm(prog_name="xlm")
    raise AssertionError("click exits by itself")
