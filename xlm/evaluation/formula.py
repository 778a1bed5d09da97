"""Formulas about surprisals, such as ``(3;%mismatch%) > (3;%match%)``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from xlm.errors import InputError

Region = tuple[str, str]
"""A condition and the number of a region of its sentence, or ``*`` for the whole sentence."""

_TOKEN = re.compile(
    r"""\s*(?:
        \(\s*(?P<region>[0-9]+|\*)\s*;\s*%(?P<condition>[^%]+)%\s*\)
        | (?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)
        | (?P<operator>[-+<>=&|()\[\]])
    )""",
    re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]"}
_DEEPEST = 50
_NATS_PER_BIT = math.log(2)
# Sides of "=" may differ by as much as SyntaxGym allows.
_RELATIVE = 1e-5
_ABSOLUTE = 1e-3 * _NATS_PER_BIT


@dataclass(frozen=True, slots=True)
class _Sum:
    """Numbers and surprisals of regions with their signs."""

    terms: tuple[tuple[int, _Number], ...]

    def value(self, surprisals: Mapping[Region, float]) -> float:
        return math.fsum(sign * _value(term, surprisals) for sign, term in self.terms)


@dataclass(frozen=True, slots=True)
class _Comparison:
    left: _Number
    operator: str
    right: _Number

    def holds(self, surprisals: Mapping[Region, float]) -> bool:
        left, right = _value(self.left, surprisals), _value(self.right, surprisals)
        if self.operator == "=":
            return math.isclose(left, right, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        return left < right if self.operator == "<" else left > right

    def is_tie(self, surprisals: Mapping[Region, float]) -> bool:
        return self.operator != "=" and _value(self.left, surprisals) == _value(self.right, surprisals)


@dataclass(frozen=True, slots=True)
class _Junction:
    operator: str
    parts: tuple[_Truth, ...]

    def holds(self, surprisals: Mapping[Region, float]) -> bool:
        holding = (part.holds(surprisals) for part in self.parts)
        return all(holding) if self.operator == "&" else any(holding)


_Number = float | Region | _Sum
_Truth = _Comparison | _Junction


def _value(number: _Number, surprisals: Mapping[Region, float]) -> float:
    if isinstance(number, _Sum):
        return number.value(surprisals)
    return surprisals[number] if isinstance(number, tuple) else number


class Formula:
    """A statement about the surprisals of regions, in the notation of SyntaxGym.

    ``(3;%match%)`` is the surprisal of region 3 of the condition ``match``, and ``(*;%match%)`` that of its whole
    sentence. From the strongest to the weakest, the operators are ``+`` and ``-``; ``<``, ``>`` and ``=`` (equal up to
    0.001 bits, or to 1e-5 of the larger side); ``&``; and ``|``. Round or square brackets group. Numbers are in bits,
    as in SyntaxGym.

    Args:
        text: The formula.
        where: Place of the formula in error messages.

    Attributes:
        text: The formula.
        regions: The regions that it names.

    Raises:
        InputError: The text is not a formula.
    """

    def __init__(self, text: str, *, where: object = "formula") -> None:
        self.text = text
        self._where = where
        self._tokens = list(self._read())
        self._next = 0
        self._comparisons: list[_Comparison] = []
        formula = self._disjunction(0)
        if self._next < len(self._tokens):
            raise self._error("expected an operator or the end")
        self._truth = self._checked_truth(formula)
        self.regions = frozenset(token for _, token in self._tokens if isinstance(token, tuple))

    def holds(self, surprisals: Mapping[Region, float]) -> bool:
        """Return whether the formula holds.

        Args:
            surprisals: The surprisal of each of ``regions`` in nats.
        """
        return self._truth.holds(surprisals)

    def is_tie(self, surprisals: Mapping[Region, float]) -> bool:
        """Return whether the formula does not hold and the two sides of a ``<`` or ``>`` in it are equal."""
        return not self.holds(surprisals) and any(each.is_tie(surprisals) for each in self._comparisons)

    def _read(self) -> Iterator[tuple[int, float | Region | str]]:
        """Yield each token with the index of its first character."""
        text, position = self.text.rstrip(), 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error("expected a region, a number or an operator", at=position)
            group = str(match.lastgroup)
            start = match.start("region" if group == "condition" else group)
            if group == "condition":
                yield start, (match["condition"], match["region"])
            elif group == "number":
                yield start, float(match["number"]) * _NATS_PER_BIT
            else:
                yield start, match["operator"]
            position = match.end()

    def _take(self, operators: str) -> str | None:
        """Return the next token and pass over it if it is one of some operators; otherwise return ``None``."""
        if self._next == len(self._tokens):
            return None
        token = self._tokens[self._next][1]
        if not isinstance(token, str) or token not in operators:
            return None
        self._next += 1
        return token

    def _disjunction(self, depth: int) -> _Number | _Truth:
        return self._junction("|", lambda: self._junction("&", lambda: self._comparison(depth)))

    def _junction(self, operator: str, part: Callable[[], _Number | _Truth]) -> _Number | _Truth:
        first = part()
        parts = [first]
        while self._take(operator):
            parts.append(part())
        if len(parts) == 1:
            return first
        return _Junction(operator, tuple(map(self._checked_truth, parts)))

    def _comparison(self, depth: int) -> _Number | _Truth:
        left = self._sum(depth)
        operator = self._take("<>=")
        if operator is None:
            return left
        comparison = _Comparison(self._checked_number(left), operator, self._checked_number(self._sum(depth)))
        self._comparisons.append(comparison)
        return comparison

    def _sum(self, depth: int) -> _Number | _Truth:
        first = self._atom(depth)
        signs, terms = [1], [first]
        while (operator := self._take("+-")) is not None:
            signs.append(1 if operator == "+" else -1)
            terms.append(self._atom(depth))
        if len(terms) == 1:
            return first
        return _Sum(tuple(zip(signs, map(self._checked_number, terms), strict=True)))

    def _atom(self, depth: int) -> _Number | _Truth:
        bracket = self._take("([")
        if bracket is not None:
            if depth == _DEEPEST:
                raise self._error(f"more than {_DEEPEST} brackets are open")
            inner = self._disjunction(depth + 1)
            if not self._take(_CLOSING[bracket]):
                raise self._error(f"expected {_CLOSING[bracket]}")
            return inner
        token = self._tokens[self._next][1] if self._next < len(self._tokens) else ""
        if isinstance(token, str):
            raise self._error("expected a region, a number or an opening bracket")
        self._next += 1
        return token

    def _checked_number(self, operand: _Number | _Truth) -> _Number:
        if isinstance(operand, _Comparison | _Junction):
            raise self._error("a comparison stands where a number is needed; compare two sides, and join with & or |")
        return operand

    def _checked_truth(self, operand: _Number | _Truth) -> _Truth:
        if not isinstance(operand, _Comparison | _Junction):
            raise self._error("a number stands where a comparison with <, > or = is needed")
        return operand

    def _error(self, problem: str, *, at: int | None = None) -> InputError:
        if at is None:
            at = self._tokens[self._next][0] if self._next < len(self._tokens) else len(self.text)
        return InputError(
            "not a formula",
            where=self._where,
            found=f"{self.text[:200]!r}: {problem}, at character {at + 1}",
            expected="such as (3;%mismatch%) > (3;%match%), with + - < > = & | and brackets",
        )
