"""Lines out: UTF-8 whatever the locale says, one at a time; and errors that name the line that came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click

from xlm.errors import InputError, XLMError


class UntilError:
    """Texts up to the first that cannot be read, so that those before it are written before the error is shown.

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
        """Raises the error that ended the texts, if one did."""
        if self._error is not None:
            raise self._error


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
def naming_line(place: str) -> Iterator[None]:
    """Makes an error about the text name its place, where the library can only name its own argument."""
    try:
        yield
    except InputError as error:
        if error.where == "text":
            error.where = place
        raise
