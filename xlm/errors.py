"""Exceptions for faults that a user can cause.

Each exception says what went wrong, where, what was found, what was expected, and what the user can do.

XLMError
├── ConfigError      a configuration with invalid values
├── CheckpointError  an invalid checkpoint file
│   └── HubError     a model that could not be fetched from the Hugging Face hub
├── VocabularyError  an invalid file of words, merges or codes, or one that belongs to another model
├── InputError       texts, ids, options or other arguments that are invalid
├── LanguageError    an unknown or missing language
├── NonFiniteError   scores of a model that are not finite
├── TrainingError    a training run that cannot continue
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
"""The name of a value, the value, and the rule that it breaks."""


class XLMError(Exception):
    """Base class of the errors that this library raises for invalid input.

    Args:
        what: What went wrong; one sentence without a full stop.
        where: The file, line, argument or tensor at fault.
        found: What was found there.
        expected: What was expected there.
        remedy: What the user can do.
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
        """Return one error that names several invalid values.

        Args:
            what: What went wrong; one sentence without a full stop.
            problems: The invalid values, at least one.
            remedy: What the user can do.
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
        """The error in one line, for a cell of a table."""
        return self.what if self.found is None else f"{self.what}: {self.found}"

    def __str__(self) -> str:
        fields = (("where", self.where), ("found", self.found), ("expected", self.expected), ("remedy", self.remedy))
        is_name = "_" in self.what.partition(" ")[0]  # the name of an argument keeps its case
        sentence = self.what if is_name else self.what[:1].upper() + self.what[1:]
        return "\n".join([sentence, *(f"  {name}: {_printable(value)}" for name, value in fields if value is not None)])

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.found, self.expected, self.remedy)


def _printable(value: object) -> str:
    """Return a value as text without control characters; names in files from strangers may contain such characters."""
    text = str(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _rebuild(kind: type[XLMError], what: str, where: object, found: object, expected: object, remedy: str) -> XLMError:
    return kind(what, where=where, found=found, expected=expected, remedy=remedy)


class ConfigError(XLMError, ValueError):
    """A configuration with invalid values; the message names all of them."""


class CheckpointError(XLMError, ValueError):
    """An invalid checkpoint file; the message names every invalid tensor."""


class HubError(CheckpointError):
    """A model that could not be fetched from the Hugging Face hub; the error of ``huggingface_hub`` is its cause."""


class VocabularyError(XLMError, ValueError):
    """An invalid file of words, merges or codes, or one that belongs to another model."""


class InputError(XLMError, ValueError):
    """Texts, ids, options or other arguments that are invalid."""


class LanguageError(XLMError, ValueError):
    """A language that the model does not have, or a missing language where one is required."""


class NonFiniteError(XLMError, ArithmeticError):
    """Scores of a model that are not finite."""


class TrainingError(XLMError, RuntimeError):
    """A training run that cannot continue; the state of the run is saved."""


class WriteError(XLMError, OSError):
    """A target that exists already or could not be written; no partial output is left."""


class DependencyError(XLMError, ImportError):
    """An optional library that is not installed; the remedy names the extra that installs it."""


class XLMWarning(UserWarning):
    """Warning about a use that is valid but probably a mistake."""


def warn_caller(message: str) -> None:
    """Issue an ``XLMWarning`` that shows the location of the nearest caller outside this library."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, XLMWarning, stacklevel=level)
