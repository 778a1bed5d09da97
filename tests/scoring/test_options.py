"""The options of scoring, written once.

Oracle: the fields of ``ScoringOptions``; for refused values, their names in the error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from xlm.distributed.steps import Scorer as RayScorer
from xlm.errors import InputError
from xlm.scoring.frames import score_frame
from xlm.scoring.options import ScoringKeywords, ScoringOptions
from xlm.scoring.score import score, score_stream


def test_the_keywords_are_the_options_with_their_types() -> None:
    assert ScoringKeywords.__annotations__.keys() == {field.name for field in fields(ScoringOptions)}
    for field in fields(ScoringOptions):
        declared = ScoringKeywords.__annotations__[field.name]
        assert getattr(declared, "__forward_arg__", declared) == field.type


@pytest.mark.parametrize("function", [score, score_stream, score_frame, RayScorer])
def test_signatures_show_each_option_with_its_default(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    for field in fields(ScoringOptions):
        assert parameters[field.name].default == field.default
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "options" not in parameters


REFUSED: dict[str, list[Any]] = {
    "batch_size": [0, -1, 1.0, True, "2", 2**31],
    "batch_tokens": [0, False, []],
    "ranks": [1, None, "yes"],
    "entropies": [0, None],
    "top": [-1, 1.5, True, None],
    "too_long": ["cut", None, ["windows"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_a_value_that_is_not_allowed_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        ScoringOptions(**{name: value})
    assert caught.value.where == name


def test_an_option_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="strides"):
        ScoringOptions(**{"strides": 1})  # type: ignore[arg-type]
