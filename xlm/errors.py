"""What a user can cause, as exceptions that say what, where, found, expected and remedy.

XLMError
├── ConfigError      a configuration whose values cannot make a model
├── CheckpointError  a file that is not the checkpoint it should be
│   └── HubError     a model that could not be fetched from the Hugging Face hub
├── VocabularyError  a vocabulary, merges or codes file that is broken or of another model
├── InputError       ids, languages, lengths or positions that the model or tokenizer cannot take
├── LanguageError    a language the model does not have, or one that is missing
├── TrainingError    a training run that cannot go on
├── WriteError       a target that exists or could not be written
└── DependencyError  an optional library that is not installed
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_LIBRARY = f"{Path(__file__).parent}{os.sep}"

_LONGEST = 10_000

Problem = tuple[str, object, str]
"""The name of a value, the value, and what is allowed."""


class XLMError(Exception):
    """Base of everything this library raises for a cause that lies with its input.

    Args:
        what: What went wrong, one sentence without a full stop.
        where: The file, line, argument or tensor it went wrong in.
        found: What was there.
        expected: What should have been there.
        remedy: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(what)

    @classmethod
    def of_values(cls, what: str, problems: Sequence[Problem], *, remedy: str | None = None) -> Self:
        """One error that names several wrong values.

        Args:
            what: What they do not make, one sentence without a full stop.
            problems: At least one.
            remedy: What to do about them.
        """
        return cls(
            what,
            where="; ".join(name for name, _, _ in problems),
            found="; ".join(f"{name} = {value!r:.500}" for name, value, _ in problems),
            expected="; ".join(f"{name}: {rule}" for name, _, rule in problems),
            remedy=remedy,
        )

    @property
    def in_short(self) -> str:
        """What went wrong and what was found, for a cell of a table."""
        return self.what if self.found is None else f"{self.what}: {self.found}"

    def __str__(self) -> str:
        fields = (("where", self.where), ("found", self.found), ("expected", self.expected), ("remedy", self.remedy))
        is_name = "_" in self.what.partition(" ")[0]  # of an argument, which is written as it is
        sentence = self.what if is_name else self.what[:1].upper() + self.what[1:]
        return "\n".join([sentence, *(f"  {name}: {_printable(value)}" for name, value in fields if value is not None)])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.found, self.expected, self.remedy)


def _printable(value: object) -> str:
    """Return a value as text without what a terminal obeys or cannot show: files from strangers name things so."""
    text = str(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _rebuild(kind: type[XLMError], what: str, where: object, found: object, expected: object, remedy: str) -> XLMError:
    return kind(what, where=where, found=found, expected=expected, remedy=remedy)


class ConfigError(XLMError, ValueError):
    """A configuration whose values cannot make a model; names every wrong key at once."""


class CheckpointError(XLMError, ValueError):
    """A file that is not the checkpoint it should be; names every wrong tensor at once."""


class HubError(CheckpointError):
    """A model that could not be fetched from the Hugging Face hub; raised from the error of its library."""


class VocabularyError(XLMError, ValueError):
    """A vocabulary, merges or codes file that is broken, or that belongs to another model."""


class InputError(XLMError, ValueError):
    """Ids, lengths, positions or texts that the model or tokenizer cannot take."""


class LanguageError(XLMError, ValueError):
    """A language that the model does not have, or that is missing where one is needed."""


class TrainingError(XLMError, RuntimeError):
    """A training run that cannot go on; its state was kept."""


class WriteError(XLMError, OSError):
    """A target that exists already or that could not be written; nothing was left behind."""

    def __str__(self) -> str:
        return XLMError.__str__(self)


class DependencyError(XLMError, ImportError):
    """An optional library that is not installed; the remedy names the extra."""

    def __str__(self) -> str:
        return XLMError.__str__(self)


class XLMWarning(UserWarning):
    """Something that is allowed and probably not what was meant."""


def warn_caller(message: str) -> None:
    """Warns at the line outside of this library that a call came from, however many functions lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, XLMWarning, stacklevel=level)
