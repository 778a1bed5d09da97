"""Requests of the page: their keys, checks and limits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, Literal, NoReturn, TypeVar

from xlm.errors import InputError

_Request = TypeVar("_Request", bound="TextRequest")
Unit = Literal["bits", "nats"]

_MOST_NAMED = 10  # maximum number of wrong keys that an error names

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a string", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: type(value) is int),
    "float": ("a number", lambda value: type(value) in (int, float)),
    "Unit": ("'bits' or 'nats'", lambda value: value in ("bits", "nats")),
}
"""What a key of each type may hold, in words and as a test; JSON has no other numbers than ints and floats."""


class TooLargeError(InputError):
    """A text or request that exceeds the limits of the page.

    Args:
        what: What is too large, such as "the text is too long".
        where: The key, or the body of the request.
        found: The size of the text or request.
        limit: The largest size allowed.
    """

    def __init__(self, what: str, *, where: str, found: str, limit: int) -> None:
        remedy = "take a part of the text; xlm score reads texts of any length"
        super().__init__(
            f"{what} for this page", where=where, found=found, expected=f"at most {limit:,}", remedy=remedy
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of the size and number of requests.

    Attributes:
        body: Maximum bytes of a request.
        characters: Maximum characters of a text.
        tokens: Maximum tokens of a text.
        alternatives: Maximum number of alternatives for a token.
        new_tokens: Maximum tokens of a continuation.
        picture_lines: Maximum number of lines of words in a picture; each takes a fraction of a second to draw.
        requests: Maximum number of requests that are computed or wait; more are refused.
    """

    body: int = 256 * 1024
    characters: int = 10_000
    tokens: int = 2_048
    alternatives: int = 50
    new_tokens: int = 512
    picture_lines: int = 40
    requests: int = 8


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Request about a text.

    Attributes:
        text: Any text.
        lang: Language of the text, which the model must have.
        preset: Text pipeline; ``None`` for the model's own.
        prefix: What the text is conditioned on; not scored itself.
    """

    text: str
    lang: str
    preset: str | None = None
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class LinesRequest(TextRequest):
    """Request about the lines of a text, each of which is a sentence.

    Attributes:
        documents: Whether each line is scored given the lines before it, up to a blank one.
        languages: For each line of the text, a line with its language, or with the languages of its words, those of the
            prefix first, with blanks between them. An empty or missing one stands for ``lang``.
    """

    documents: bool = False
    languages: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(LinesRequest):
    """Request to score a text.

    Attributes:
        top: Number of alternatives to return for each token, the most likely ones.
    """

    top: int = 8


@dataclass(frozen=True, kw_only=True)
class ExportRequest(LinesRequest):
    """Request for a file with the surprisals of a text.

    Attributes:
        unit: ``"bits"`` or ``"nats"``.
    """

    unit: Unit = "bits"


@dataclass(frozen=True, kw_only=True)
class ContinueRequest(TextRequest):
    """Request to continue a text, with options of ``DecodingOptions``.

    Attributes:
        continuation_lang: Language of the continuation; ``None`` for that of the text.
        max_new_tokens: Maximum tokens to generate.
        do_sample: Whether to sample each token instead of choosing the most likely one.
        temperature: Divisor of the logits before sampling.
        top_k: Number of tokens to sample from; ``None`` for all.
        top_p: Total probability of the most likely tokens, to sample from only these; ``None`` for all tokens.
        seed: Seed of the samples; ``None`` for a new random seed.
    """

    continuation_lang: str | None = None
    max_new_tokens: int = 40
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 0.9
    seed: int | None = None


def read_request(cls: type[_Request], body: bytes, limits: Limits) -> _Request:
    """Return the request in the body of a POST.

    Args:
        cls: Class of the request.
        body: JSON object in UTF-8 with the attributes of the class as keys; those with a default are optional.
        limits: Limits of the text and the numbers.

    Raises:
        InputError: The body is not JSON, or not an object with valid keys. The error names the wrong keys.
        TooLargeError: The text is too long.
    """
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "the request is not JSON", where="body", found=str(error), expected="a JSON object in UTF-8"
        ) from error
    if not isinstance(values, dict):
        raise InputError(
            "the request is not an object", where="body", found=type(values).__name__, expected="a JSON object"
        )
    known = {field.name: field for field in dataclasses.fields(cls)}
    wrong = {key: "no such key" for key in values if key not in known}
    for name, field in sorted(known.items()):
        expected, holds = _KINDS[str(field.type).removesuffix(" | None")]
        is_optional = str(field.type).endswith(" | None")
        value = values.get(name, field.default)
        if value is MISSING:
            wrong[name] = "missing"
        elif not (holds(value) or (is_optional and value is None)):
            wrong[name] = expected + ", or null" * is_optional
    if wrong:
        raise InputError(
            "the request has wrong keys",
            where=", ".join(key[:40] for key in list(wrong)[:_MOST_NAMED]),
            expected="; ".join(f"{key[:40]}: {expected}" for key, expected in list(wrong.items())[:_MOST_NAMED]),
        )
    request = cls(**values)
    for name, are in (("text", "is"), ("prefix", "is"), ("languages", "are")):
        if (length := len(getattr(request, name, ""))) > limits.characters:
            found = f"{length:,} characters"
            raise TooLargeError(f"the {name} {are} too long", where=name, found=found, limit=limits.characters)
    bounds = {"top": (0, limits.alternatives), "max_new_tokens": (1, limits.new_tokens), "seed": (0, 2**53 - 1)}
    for name, (low, high) in bounds.items():
        value = getattr(request, name, None)
        if value is not None and not low <= value <= high:
            raise InputError("a number is out of range", where=name, found=value, expected=f"from {low} to {high}")
    return request


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
