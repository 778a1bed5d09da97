"""Texts that the commands read, and errors that name a line of the input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import click

from xlm.errors import InputError, XLMError

if TYPE_CHECKING:
    from xlm.corpus.rows import Corpus

_Item = TypeVar("_Item")


def open_corpus(files: Sequence[Path], *, format: str | None, column: str | None, whole: bool = False) -> Corpus:
    """Return the rows of files, after checking the beginning of each.

    Raises:
        UsageError: A file is plain text with ``--column``, or Parquet that is compressed or from standard input.
        InputError: A file is missing, a table lacks the column or has an unreadable header, or a file is in UTF-16.
        DependencyError: A file is in Parquet, and pyarrow is not installed.
    """
    from xlm.corpus.rows import Corpus

    try:
        corpus = Corpus(files, format=format, column=column, whole=whole)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    for file in files:
        if str(file) != "-" and not file.exists():
            raise InputError("no such file", where=file)
    corpus.check()
    return corpus


class UntilError(Generic[_Item]):
    """Iterator that ends at the first error and keeps it, so that the output for the items before it is written first.

    Args:
        items: Iterable that may raise an ``XLMError``.
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = items
        self._error: XLMError | None = None

    def __iter__(self) -> Iterator[_Item]:
        try:
            yield from self._items
        except XLMError as error:
            self._error = error

    def raise_error(self) -> None:
        """Raise the error that ended the items, if one did."""
        if self._error is not None:
            raise self._error


@contextmanager
def naming_line(line: str) -> Iterator[None]:
    """Make an error about an argument ``text`` name the line of the input instead."""
    try:
        yield
    except InputError as error:
        if error.where == "text":
            error.where = line
        raise


def refuse_inputs(output: Path, inputs: Iterable[Path], *, option: str, written: Sequence[Path] | None = None) -> None:
    """Raise ``UsageError`` if writing an output would destroy an input.

    Args:
        output: File to write.
        inputs: Files to read; standard input and files that do not exist are allowed.
        option: Name of the output's option, for the error.
        written: All files that the command writes for this output; ``None`` if it writes the output only.
    """
    targets = [path for path in (written or (output,)) if path.exists()]
    for file in inputs:
        if file.exists() and any(file.samefile(path) for path in targets):
            raise click.UsageError(f"{option} {output} would overwrite an input: {file}")


def damaged_inputs(names: Iterable[str]) -> str:
    """Return the message that names files of which only a part could be read."""
    return f"damaged input, of which only the readable part was processed: {', '.join(names)}"


def split_language(text: str) -> tuple[str, Path]:
    """Return the language and the file in ``LANG=FILE``.

    Raises:
        UsageError: The text does not have this form.
    """
    language, equals, file = text.partition("=")
    if not (language and equals and file):
        raise click.UsageError(f"{text!r} is not LANG=FILE, such as en=text.en.txt")
    return language, Path(file)


def files_by_text(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Return the files of training texts by name: a language, such as ``de``, or a side of pairs, such as ``de-en.de``.

    Args:
        option: Name of the option, for errors.
        texts: Values of the option, each ``LANG=FILE`` or ``L1-L2=FILE1,FILE2``.

    Raises:
        UsageError: A value has another form, or a language or pair is repeated.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, file = split_language(text)
        languages, sides = name.split("-"), str(file).split(",")
        if len(languages) != 2 or (len(sides) == 1 and file.exists()):  # a language may have a hyphen in its name
            _add_file(files, name, file, option=option)
            continue
        if len(sides) != 2 or not all(sides) or not all(languages) or len(set(languages)) == 1:
            raise click.UsageError(f"{option}: {text!r} is not L1-L2=FILE1,FILE2, such as de-en=text.de,text.en")
        pair = "-".join(sorted(languages))
        for language, side in zip(languages, sides, strict=True):
            _add_file(files, f"{pair}.{language}", Path(side), option=option)
    return files


def _add_file(files: dict[str, Path], name: str, file: Path, *, option: str) -> None:
    if name in files:
        raise click.UsageError(f"{option}: {name} is given twice; join its files into one")
    files[name] = file
