"""Lines in, lines out: UTF-8 whatever the locale says, one at a time, split at line feeds and nothing else."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from xlm.errors import InputError, XLMError


def place(file: BinaryIO, number: int) -> str:
    """The name of a line (counted from 1) in errors."""
    return f"{'standard input' if is_standard_input(file) else file.name}, line {number}"


def is_standard_input(file: BinaryIO) -> bool:
    """Whether lines come from standard input rather than from a file that has a name."""
    name = getattr(file, "name", "-")
    return not isinstance(name, str) or name in ("-", "<stdin>")


def read_lines(file: BinaryIO, *, lines: Iterable[bytes] | None = None, first: int = 1) -> Iterator[tuple[int, str]]:
    r"""Yields each line's number and its text without the ``\n``; an unfinished last line counts too.

    A byte order mark at the start is no text.

    Args:
        file: What is read, and named in errors.
        lines: Some lines of it that have been read already, instead of those that are left.
        first: The first line's number.

    Raises:
        InputError: A line is not UTF-8, or the file cannot be read to its end.
    """
    for number, line in enumerate(_naming(file, file if lines is None else lines), start=first):
        text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield number, text.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                "the text is not UTF-8",
                where=place(file, number),
                found=f"byte 0x{text[error.start]:02x} at byte {error.start + 1} of the line",
                expected="UTF-8",
                remedy="convert the text, for example: iconv -f LATIN1 -t UTF-8",
            ) from error


def _naming(file: BinaryIO, lines: Iterable[bytes]) -> Iterator[bytes]:
    with naming_file(file):
        yield from lines


@contextmanager
def naming_file(file: BinaryIO) -> Iterator[None]:
    """Makes an error of the system, which does not say what was read, one that does."""
    try:
        yield
    except OSError as error:
        if isinstance(error, XLMError) or error.filename is not None:
            raise
        name = "standard input" if is_standard_input(file) else file.name
        raise InputError(
            "the text could not be read", where=name, found=error.strerror or error, expected="a text file"
        ) from error


def write_line(line: str) -> None:
    """Writes one line to standard output, at once."""
    click.echo(line.encode("utf-8"))


def show_signature(signature: object, *, unknown: int | None = None) -> None:
    """Write the signature of a run to standard error.

    Args:
        signature: What the results were made with.
        unknown: How many of the scored tokens are ``<unk>``; ``None`` where none were scored.
    """
    counted = "" if unknown is None else f"|unknown:{unknown}"
    click.echo(f"signature: {signature}{counted}", err=True)


@contextmanager
def naming_line(file: BinaryIO, number: int) -> Iterator[None]:
    """Makes an error about the text name the line, where the library can only name its own argument."""
    try:
        yield
    except InputError as error:
        if error.where == "text":
            error.where = place(file, number)
        raise
