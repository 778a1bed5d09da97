"""Lines in, lines out: UTF-8 whatever the locale says, one at a time, split at line feeds and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import click

from xlm.errors import InputError


def place(file: BinaryIO, number: int) -> str:
    """The name of a line (counted from 1) in errors."""
    return f"{'standard input' if is_standard_input(file) else file.name}, line {number}"


def is_standard_input(file: BinaryIO) -> bool:
    """Whether lines come from standard input rather than from a file that has a name."""
    name = getattr(file, "name", "-")
    return not isinstance(name, str) or name in ("-", "<stdin>")


def read_lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    r"""Yields each line's number, from 1, and its text without the ``\n``; an unfinished last line counts too.

    Raises:
        InputError: A line is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        try:
            yield number, line.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                "the text is not UTF-8",
                where=place(file, number),
                found=f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line",
                expected="UTF-8",
                remedy="convert the text, for example: iconv -f LATIN1 -t UTF-8",
            ) from error


def write_line(line: str) -> None:
    """Writes one line to standard output, at once."""
    click.echo(line.encode("utf-8"))


def write_lines(lines: Sequence[str]) -> None:
    """Writes several lines to standard output."""
    click.echo("".join(f"{line}\n" for line in lines).encode("utf-8"), nl=False)


@contextmanager
def naming_line(file: BinaryIO, number: int) -> Iterator[None]:
    """Makes an error about the text name the line, where the library can only name its own argument."""
    try:
        yield
    except InputError as error:
        if error.where == "text":
            error.where = place(file, number)
        raise
