"""Options of scoring, with their defaults, checks and documentation."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from xlm._io.arguments import check_choice, check_count, check_flags, shown
from xlm.errors import InputError

TOO_LONG = ("windows", "refuse")
"""Policies for texts longer than the model's positions."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringOptions:
    """Options of ``score``, ``score_stream`` and ``score_frame``, which take them as keyword arguments.

    Attributes:
        batch_size: Maximum number of texts in a batch; ``None`` for as many as ``batch_tokens`` allows.
        batch_tokens: Maximum number of tokens in a batch; ``None`` for 1,024 on a CPU and 32,768 elsewhere.
        ranks: Whether to return the rank of each token.
        entropies: Whether to return the entropy of each prediction.
        top: Number of most likely tokens to return at each position, with their log-probabilities.
        too_long: ``"windows"`` scores a text longer than the model's positions in overlapping windows; ``"refuse"``
            refuses it. The length is in tokens, with the opening one and without the closing one. The first window
            begins at the opening token and is as long as the model allows. Each further window scores ``stride`` more
            tokens and is filled with the text before them, without an opening token.
        stride: From 1, which gives every token the longest context and takes longest, to the number of the model's
            positions; ``None`` for half of them. The upper limit is checked once there is a model.

    Raises:
        InputError: An option has a value that is not allowed.
    """

    batch_size: int | None = None
    batch_tokens: int | None = None
    ranks: bool = False
    entropies: bool = False
    top: int = 0
    too_long: str = "windows"
    stride: int | None = None

    def __post_init__(self) -> None:
        check_choice("`too_long` policy", TOO_LONG, too_long=self.too_long)
        limits = {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}
        check_count(**{name: limit for name, limit in limits.items() if limit is not None})
        check_flags(ranks=self.ranks, entropies=self.entropies)
        if type(self.top) is not int or self.top < 0:
            raise InputError(
                "the number of alternatives is wrong", where="top", found=shown(self.top), expected="0 or more"
            )


class ScoringKeywords(TypedDict, total=False):
    """``ScoringOptions`` as keyword arguments, for type checkers."""

    batch_size: int | None
    batch_tokens: int | None
    ranks: bool
    entropies: bool
    top: int
    too_long: str
    stride: int | None


def shows_scoring_options(function: _Function) -> _Function:
    """Make ``inspect.signature`` and ``help`` name the options, with their defaults, in place of ``**options``."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in dataclasses.fields(ScoringOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function
