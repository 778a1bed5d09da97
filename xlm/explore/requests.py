"""What the page may ask for, checked: a JSON object becomes a request, or an error that says what is wrong in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from xlm.errors import InputError

_Request = TypeVar("_Request", bound="TextRequest")

_MOST_NAMED = 10
"""Wrong keys that an error names."""


class TooLargeError(InputError):
    """A text or a request beyond the limits of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one request may ask for, and how many there may be.

    Attributes:
        body: Bytes of a request.
        characters: Of a text.
        tokens: Of a text, once it is divided.
        alternatives: The most likely tokens that are given for a place.
        new_tokens: Of a continuation.
        requests: That are computed or waiting at a time; one more is refused.
    """

    body: int = 256 * 1024
    characters: int = 10_000
    tokens: int = 2_048
    alternatives: int = 50
    new_tokens: int = 512
    requests: int = 8


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A text to look at.

    Attributes:
        text: Any text.
        lang: Its language, one of the model's.
        preset: The text pipeline; ``None`` for the model's own.
    """

    CHECKS: ClassVar[dict[str, tuple[str, Callable[[Any], bool]]]] = {
        "text": ("a string", lambda value: isinstance(value, str)),
        "lang": ("the name of a language", lambda value: isinstance(value, str)),
        "preset": ("the name of a preset, or null", lambda value: value is None or isinstance(value, str)),
    }

    text: str
    lang: str
    preset: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(TextRequest):
    """A text to score.

    Attributes:
        top: How many of the most likely tokens to give for each place.
    """

    CHECKS: ClassVar = {**TextRequest.CHECKS, "top": ("a whole number", lambda value: _whole(value))}

    top: int = 8


@dataclass(frozen=True, kw_only=True)
class ContinueRequest(TextRequest):
    """A text to continue; the knobs have the names and the meaning of ``DecodingOptions``.

    Attributes:
        continuation_lang: Language of what is produced; ``None`` for the prompt's.
        max_new_tokens: The most tokens to produce.
        do_sample: Draw each token; otherwise take the best one.
        temperature: Of drawing.
        top_k: Of drawing; ``None`` for all.
        top_p: Of drawing; ``None`` for all.
        seed: Of drawing; ``None`` for another one each time.
    """

    CHECKS: ClassVar = {
        **TextRequest.CHECKS,
        "continuation_lang": TextRequest.CHECKS["preset"],
        "max_new_tokens": ("a whole number", lambda value: _whole(value)),
        "do_sample": ("true or false", lambda value: isinstance(value, bool)),
        "temperature": ("a number", lambda value: _whole(value) or isinstance(value, float)),
        "top_k": ("a whole number, or null", lambda value: value is None or _whole(value)),
        "top_p": ("a number, or null", lambda value: value is None or _whole(value) or isinstance(value, float)),
        "seed": ("a whole number, or null", lambda value: value is None or _whole(value)),
    }

    continuation_lang: str | None = None
    max_new_tokens: int = 40
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 0.9
    seed: int | None = None


def read_request(kind: type[_Request], body: bytes, limits: Limits) -> _Request:
    """The request that the body of a POST holds.

    Args:
        kind: Of request.
        body: JSON in UTF-8: an object with the attributes of that kind, those with a default being optional.
        limits: Of the text and of what may be asked for.

    Raises:
        InputError: It is not JSON or not such an object; wrong keys are named together.
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
    fields = dataclasses.fields(kind)
    required = {field.name for field in fields if field.default is MISSING}
    wrong = {
        **{key: "no such key" for key in values if key not in kind.CHECKS},
        **dict.fromkeys(sorted(required - values.keys()), "missing"),
        **{key: expected for key, (expected, holds) in kind.CHECKS.items() if key in values and not holds(values[key])},
    }
    if wrong:
        raise InputError(
            "keys of the request are wrong",
            where=", ".join(key[:40] for key in list(wrong)[:_MOST_NAMED]),
            expected="; ".join(f"{key[:40]}: {expected}" for key, expected in list(wrong.items())[:_MOST_NAMED]),
        )
    request = kind(**values)
    if len(request.text) > limits.characters:
        raise TooLargeError(
            "the text is too long for this page",
            where="text",
            found=f"{len(request.text):,} characters",
            expected=f"at most {limits.characters:,}",
            remedy="take a part of it; xlm score reads texts of any length",
        )
    bounds = {"top": (0, limits.alternatives), "max_new_tokens": (1, limits.new_tokens), "seed": (0, 2**53 - 1)}
    for name, (least, most) in bounds.items():
        value = getattr(request, name, None)
        if value is not None and not least <= value <= most:
            raise InputError("a number is out of range", where=name, found=value, expected=f"from {least} to {most}")
    return request


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
