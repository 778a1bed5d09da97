"""Requests of the page: their keys, checks and limits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from xlm.errors import InputError

_Request = TypeVar("_Request", bound="TextRequest")

_MOST_NAMED = 10  # maximum number of wrong keys that an error names


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

    CHECKS: ClassVar[dict[str, tuple[str, Callable[[Any], bool]]]] = {
        "text": ("a string", lambda value: isinstance(value, str)),
        "lang": ("the name of a language", lambda value: isinstance(value, str)),
        "preset": ("the name of a preset, or null", lambda value: value is None or isinstance(value, str)),
        "prefix": ("a string", lambda value: isinstance(value, str)),
    }

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

    CHECKS: ClassVar = {
        **TextRequest.CHECKS,
        "documents": ("true or false", lambda value: isinstance(value, bool)),
        "languages": ("a string", lambda value: isinstance(value, str)),
    }

    documents: bool = False
    languages: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(LinesRequest):
    """Request to score a text.

    Attributes:
        top: Number of alternatives to return for each token, the most likely ones.
    """

    CHECKS: ClassVar = {**LinesRequest.CHECKS, "top": ("a whole number", lambda value: _is_int(value))}

    top: int = 8


@dataclass(frozen=True, kw_only=True)
class ExportRequest(LinesRequest):
    """Request for a file with the surprisals of a text.

    Attributes:
        unit: ``"bits"`` or ``"nats"``.
    """

    CHECKS: ClassVar = {**LinesRequest.CHECKS, "unit": ("'bits' or 'nats'", lambda value: value in ("bits", "nats"))}

    unit: str = "bits"


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

    CHECKS: ClassVar = {
        **TextRequest.CHECKS,
        "continuation_lang": TextRequest.CHECKS["preset"],
        "max_new_tokens": ("a whole number", lambda value: _is_int(value)),
        "do_sample": ("true or false", lambda value: isinstance(value, bool)),
        "temperature": ("a number", lambda value: _is_int(value) or isinstance(value, float)),
        "top_k": ("a whole number, or null", lambda value: value is None or _is_int(value)),
        "top_p": ("a number, or null", lambda value: value is None or _is_int(value) or isinstance(value, float)),
        "seed": ("a whole number, or null", lambda value: value is None or _is_int(value)),
    }

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
    fields = dataclasses.fields(cls)
    required = {field.name for field in fields if field.default is MISSING}
    wrong = {
        **{key: "no such key" for key in values if key not in cls.CHECKS},
        **dict.fromkeys(sorted(required - values.keys()), "missing"),
        **{key: expected for key, (expected, holds) in cls.CHECKS.items() if key in values and not holds(values[key])},
    }
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


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
