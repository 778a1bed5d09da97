"""Lines of output, UTF-8 whatever the locale, and errors that name the line of input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from xlm.errors import InputError, XLMError


class UntilError:
    """Texts up to the first unreadable one; its error is kept until those before it are written.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._error: XLMError | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._texts
        except XLMError as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise the error that ended the texts, if one did."""
        if self._error is not None:
            raise self._error


def write_line(line: str) -> None:
    """Write one line to standard output and flush it."""
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
def naming_line(place: str) -> Iterator[None]:
    """Make an error about the text name its place, where the library can only name its own argument."""
    try:
        yield
    except InputError as error:
        if error.where == "text":
            error.where = place
        raise
