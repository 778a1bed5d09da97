"""Checks of arguments for several packages; each check raises an ``InputError`` that names the argument."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xlm.errors import InputError

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PLAIN = (str, bytes, int, float, type(None))
_SHOWN = 80
_LARGEST = 2**31 - 1  # the largest int that every library used here accepts


def check_flags(**flags: object) -> None:
    """Raise ``InputError`` unless each argument is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InputError(
                f"{name} is neither true nor false", where=name, found=shown(value), expected="True or False"
            )


def check_choice(what: str, choices: Collection[str | bool | None], **argument: object) -> None:
    """Raise ``InputError`` unless an argument is one of the choices.

    Args:
        what: What the argument chooses, in the singular, such as ``"padding"``.
        choices: The allowed values.
        **argument: A single argument, by its name.
    """
    ((name, value),) = argument.items()
    if not (isinstance(value, str | bool | None) and value in choices):
        raise InputError(f"no such {what}", where=name, found=shown(value), expected=listed_choices(choices))


def listed_choices(choices: Collection[object]) -> str:
    """Return the allowed values for a message, such as ``'a', 'b' or 'c'``."""
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last


def check_count(*, least: int = 1, most: int = _LARGEST, **counts: object) -> None:
    """Raise ``InputError`` unless each argument is an int from ``least`` to ``most``."""
    for name, value in counts.items():
        if type(value) is not int or not least <= value <= most:
            raise InputError("not a count", where=name, found=shown(value), expected=f"an int from {least} to {most:,}")


def check_share(**shares: object) -> None:
    """Raise ``InputError`` unless each argument is a number from 0 to 1."""
    for name, value in shares.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError("not a share", where=name, found=shown(value), expected="a number from 0 to 1")


def lists_options(options: type[Any]) -> Callable[[_Function], _Function]:
    """Return a decorator for functions that take the fields of a dataclass as keyword arguments ``**options``.

    ``inspect.signature`` and ``help`` then list the fields, with their defaults, in place of ``**options``.

    Args:
        options: The dataclass; its fields have defaults.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
        fields = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in dataclasses.fields(options)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
        return function

    return decorate


def as_path(name: str, value: object) -> Path:
    """Return an argument as a path.

    Args:
        name: The name of the argument, for the message.
        value: The value of the argument.

    Raises:
        InputError: The value is not a path; for example, it is a model instead of its directory.
    """
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            "not a path",
            where=name,
            found=type(value).__name__,
            expected="a str or path",
            remedy="to use a model or tokenizer that is in memory, save it first, and pass the directory",
        ) from error


def language_names(names: object) -> list[str]:
    """Return names of languages, given as a sequence or as a single name, as a list.

    Raises:
        InputError: These are not names.
    """
    new = [names] if isinstance(names, str) else list(names) if isinstance(names, Sequence) else []
    if not new or not all(isinstance(name, str) and name and name.isprintable() for name in new):
        raise InputError("not names of languages", where="names", found=shown(names), expected="a list of names")
    return new


def shown(value: object) -> str:
    """Return text that shows an invalid value: a simple value itself, cut if it is long, or the class name."""
    if not isinstance(value, _PLAIN):
        return f"a {type(value).__name__}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else "a huge number"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
