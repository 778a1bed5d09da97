"""Coefficients of losses. Oracle: the original's values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlm.errors import ConfigError
from xlm.training.coefficients import Coefficient


def test_values_are_those_of_the_original(reference: Path) -> None:
    cases = json.loads((reference / "unmt" / "lambda.json").read_text())
    assert len(cases) == 5
    for case in cases:
        coefficient = Coefficient.parse(case["config"], where="a test")
        for iteration, value in case["value_at_n_total_iter"].items():
            assert coefficient.at(0 if iteration == "start" else int(iteration)) == value, (case["config"], iteration)


def test_before_the_first_point_it_has_the_first_value() -> None:
    assert Coefficient.parse("10:1,20:0", where="a test").at(3) == 1
    assert Coefficient.parse("10:1,20:0", where="a test").at(15) == 0.5


@pytest.mark.parametrize("text", ["", "a", "0:1,", "0:1,0:2", "5:1,3:2", "0:nan", "-1", "0:1:2", "-1:1"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?i)schedule of a coefficient"):
        Coefficient.parse(text, where="a test")
