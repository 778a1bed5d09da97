"""Formulas. Oracle: Python's own evaluation of the formula, rewritten in its syntax."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.errors import InputError
from xlm.evaluation.formula import Formula, Region

VALUES: dict[Region, float] = {("a", "1"): 1.0, ("a", "2"): 2.25, ("b_x", "1"): 1.0, ("b_x", "2"): 0.5, ("b_x", "*"): 7}

REGIONS = st.sampled_from([f"({number};%{condition}%)" for condition, number in VALUES] + ["( 2 ; %a% )", "0"])
NUMBERS = st.recursive(
    REGIONS,
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from([" + ", "-"]), inner)
        | st.builds("({})".format, inner)
        | st.builds("[ {} ]".format, inner)
    ),
    max_leaves=6,
)
COMPARISONS = st.builds("{}{}{}".format, NUMBERS, st.sampled_from([" < ", ">", "="]), NUMBERS)
FORMULAS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds("{}{}{}".format, inner, st.sampled_from([" & ", "|"]), inner)
        | st.builds("({})".format, inner)
        | st.builds("[{}]".format, inner)
    ),
    max_leaves=6,
)


def by_python(text: str) -> bool:
    python = re.sub(
        r"\(\s*([\d*])\s*;\s*%(\w+)%\s*\)", lambda match: repr(VALUES[match[2], match[1]]), text
    )  # a region becomes its value
    for old, new in (("=", "=="), ("&", " and "), ("|", " or "), ("[", "("), ("]", ")")):
        python = python.replace(old, new)
    return bool(eval(python, {"__builtins__": {}}))  # noqa: S307 - a text that the strategies above made


@given(FORMULAS)
def test_a_formula_means_what_it_means_in_python(text: str) -> None:
    formula = Formula(text)
    assert formula.holds(VALUES) == by_python(text)
    named = re.findall(r"([\d*])\s*;\s*%(\w+)%", text)
    assert formula.regions == {(condition, number) for number, condition in named}


@pytest.mark.parametrize(
    ("text", "holds", "tie"),
    [
        ("(1;%a%) > (1;%b_x%)", False, True),
        ("(1;%a%) < (1;%b_x%)", False, True),
        ("(1;%a%) = (1;%b_x%)", True, False),
        ("(2;%a%) = (1;%b_x%)", False, False),
        ("(1;%a%) > (2;%a%)", False, False),
        ("(1;%a%) > (1;%b_x%) | (1;%a%) < (2;%a%)", True, False),
        ("(1;%a%) > (1;%b_x%) & (1;%a%) < (2;%a%)", False, True),
        ("(1;%a%) - (1;%b_x%) > 0", False, True),
    ],
)
def test_ties(text: str, holds: bool, tie: bool) -> None:
    formula = Formula(text)
    assert (formula.holds(VALUES), formula.is_tie(VALUES)) == (holds, tie)


def test_numbers_are_bits_and_equal_is_as_near_as_in_syntaxgym() -> None:
    three_bits = {("a", "1"): 3 * math.log(2), ("a", "2"): 3.0009 * math.log(2), ("a", "3"): 3.0011 * math.log(2)}
    assert Formula("(1;%a%) = 3").holds(three_bits)
    assert Formula("(1;%a%) > 2.99 & (1;%a%) < 3.01").holds(three_bits)
    assert Formula("(2;%a%) = 3").holds(three_bits)
    assert not Formula("(3;%a%) = 3").holds(three_bits)


def test_long_formulas_need_no_stack() -> None:
    text = " + ".join(["(1;%a%)"] * 5000) + " > 7200 & " + " & ".join(["(1;%a%) < (2;%a%)"] * 5000)
    assert Formula(text).holds(VALUES)  # 5,000 nats are 7,213 bits
    assert Formula("[" * 50 + "(1;%a%) < (2;%a%)" + "]" * 50).holds(VALUES)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a region, a number or an opening bracket, at character 1"),
        ("  ", "expected a region"),
        ("(1;%a%)", "a number stands where a comparison"),
        ("(1;%a%) >", "expected a region, a number or an opening bracket, at character 10"),
        ("> (1;%a%)", "expected a region, a number or an opening bracket, at character 1"),
        ("(1;%a%) > (2;%a%) > (1;%a%)", "expected an operator or the end, at character 19"),
        ("((1;%a%) > (2;%a%)) > 0", "a comparison stands where a number"),
        ("((1;%a%) > (2;%a%)) + 1 > 0", "a comparison stands where a number"),
        ("(1;%a%) & (1;%a%) > 0", "a number stands where a comparison"),
        ("((1;%a%) > 0", "expected )"),
        ("[(1;%a%) > 0)", "expected ], at character 13"),
        ("(1;%a%) > 0)", "expected an operator or the end, at character 12"),
        ("(1;%a%) (2;%a%) > 0", "expected an operator or the end"),
        ("(1;%%) > 0", "expected a region, a number or an operator, at character 3"),
        ("(1;a) > 0", "expected a region, a number or an operator"),
        ("(-1;%a%) > 0", "expected a region"),
        ("__import__('os')", "expected a region, a number or an operator, at character 1"),
        ("(1;%a%) ** 2 > 0", "expected a region, a number or an operator"),
        ("(1;%a%) > 1e999", "expected a region, a number or an operator"),
        ("(1;%a%) > " + "9" * 400, "expected an operator or the end"),
        ("٣ > 0", "expected a region, a number or an operator"),
        ("(" * 51 + "(1;%a%) > 0" + ")" * 51, "more than 50 brackets are open"),
        ("(" * 100_000, "more than 50 brackets are open"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_no_formula_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        Formula(text, where="here")
    assert error.value.where == "here"
    assert problem in str(error.value.found)
