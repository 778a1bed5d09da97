"""``LANG=FILE`` on a command line, and printable names."""

from __future__ import annotations

from pathlib import Path

import click


def split_language(text: str) -> tuple[str, Path]:
    """Return language and file of ``LANG=FILE``.

    Raises:
        click.UsageError: It is not that.
    """
    language, equals, file = text.partition("=")
    if not (language and equals and file):
        raise click.UsageError(f"{text!r} is not LANG=FILE, such as en=text.en.txt")
    return language, Path(file)


def by_language(option: str, texts: tuple[str, ...]) -> dict[str, Path]:
    """Return the file of each language.

    Args:
        option: Where they were given.
        texts: ``LANG=FILE`` each.

    Raises:
        click.UsageError: One is not that, or a language stands there twice.
    """
    files: dict[str, Path] = {}
    for language, file in map(split_language, texts):
        if language in files:
            raise click.UsageError(f"{option}: {language} is given twice; join its files into one")
        files[language] = file
    return files


def printable(text: object) -> str:
    """Return what ``str`` makes of it, with escapes for halves of surrogate pairs, as in names that are not UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode()
