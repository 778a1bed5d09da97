"""Nested keys and values into nested dataclasses, with every mistake named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from xlm.errors import ConfigError, Problem


def wrong_keys(problems: Sequence[Problem]) -> ConfigError:
    """The error that names all of them."""
    return ConfigError.of_values(
        "the configuration makes no training run",
        problems,
        remedy="correct these keys in the file, or with --set key=value",
    )


def typed(kind: type[Any], values: object) -> tuple[dict[str, Any], list[Problem]]:
    """Arguments for a dataclass, the dataclasses in it built, and what is wrong with the values.

    Keys that are wrong or missing are left out of the arguments; in the dataclasses inside they have their defaults.

    Args:
        kind: The dataclass; those in it have defaults for all their fields.
        values: Nested keys and values.
    """
    problems: list[Problem] = []
    return _typed(kind, values, "", problems), problems


def _typed(kind: type[Any], values: object, prefix: str, problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        problems.append((prefix.rstrip("."), values, "a table of keys"))
        return {}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    for key in values:
        if key not in fields:
            problems.append((f"{prefix}{key}", values[key], f"one of the keys {', '.join(fields)}"))
    found: dict[str, Any] = {}
    for name, definition in fields.items():
        if dataclasses.is_dataclass(hints[name]):
            found[name] = hints[name](**_typed(hints[name], values.get(name, {}), f"{prefix}{name}.", problems))
        elif name in values:
            accepts, rule = _TYPES[str(definition.type).removesuffix(" | None")]
            if accepts(values[name]):
                found[name] = float(values[name]) if rule == "a number" else values[name]
            else:
                problems.append((f"{prefix}{name}", values[name], rule))
        elif definition.default is definition.default_factory is dataclasses.MISSING:
            problems.append((f"{prefix}{name}", None, "it must be given"))
    return found


_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
}
