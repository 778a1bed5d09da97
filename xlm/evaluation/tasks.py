"""Reads files of minimal pairs (BLiMP, CLAMS) and suites (SyntaxGym) into items."""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from xlm.corpus.files import STDIN, GzipReader, LocalFile
from xlm.corpus.formats import checked_text, each_key_once, is_gzip
from xlm.errors import InputError
from xlm.evaluation.formula import Formula

TASK_FORMATS = ("blimp", "clams", "syntaxgym")

GROUPS = ("linguistics_term", "field")
"""Keys of BLiMP that join several tasks to a group."""

_GOOD, _BAD = "good", "bad"
_GOOD_IS_LIKELIER = Formula(f"(*;%{_GOOD}%) < (*;%{_BAD}%)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A sentence of an item.

    Attributes:
        name: Name of the condition: ``good`` or ``bad`` in a minimal pair.
        text: The sentence.
        regions: First character and end of each region of the sentence, by the region's number; empty for a minimal
            pair.
    """

    name: str
    text: str
    regions: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Sentences that differ in one respect, and formulas that hold if a model judges them correctly.

    Attributes:
        task: Name of the task, such as BLiMP's ``UID``, the name of the suite or that of the file.
        number: Number or name of the item within its task.
        conditions: The sentences.
        formulas: What must hold of their surprisals.
        groups: Groups that the task belongs to, by the keys of ``GROUPS``.
    """

    task: str
    number: str
    conditions: tuple[Condition, ...]
    formulas: tuple[Formula, ...] = (_GOOD_IS_LIKELIER,)
    groups: Mapping[str, str] = field(default_factory=dict)


def read_items(path: Path, *, format: str | None = None) -> list[Item]:
    """Return the items of a file.

    Args:
        path: ``.jsonl`` is BLiMP's format: objects with ``sentence_good`` and ``sentence_bad``. ``.json`` is a suite
            of SyntaxGym. ``.txt`` and ``.tsv`` are the format of CLAMS: lines with ``True``, a tab and the good
            sentence, each followed by a line with ``False``, a tab and the bad sentence. Each of them may be gzipped
            (``.gz``). ``-`` is standard input, which needs a format.
        format: One of ``TASK_FORMATS``; ``None`` if the name of the file tells it.

    Raises:
        InputError: The file cannot be read, has another format, or has no items.
    """
    suffix = path.with_suffix("").suffix if is_gzip(path) else path.suffix
    reader = _READERS.get(suffix.lower() if format is None else format)
    if reader is None:
        raise InputError(
            "the name of the file tells no format of a task",
            where=path,
            expected=".jsonl (BLiMP), .txt or .tsv (CLAMS), or .json (SyntaxGym)",
            remedy="name the format: --task-format blimp, clams or syntaxgym",
        )
    items = list(reader(path, _read_text(path)))
    if not items:
        raise InputError("there are no items", where=path)
    return items


def _read_text(path: Path) -> str:
    try:
        with LocalFile(path).open() as file:
            if is_gzip(path):
                unzipped = GzipReader(cast("io.BufferedIOBase", file), on_trailing=lambda *_: None)
                data = io.BufferedReader(unzipped).read()
            else:
                data = file.read()
    except (OSError, ValueError, EOFError, zlib.error) as error:
        # ValueError: the name holds a null byte or half a surrogate pair
        raise InputError(
            "the file cannot be read", where=path, found=getattr(error, "strerror", None) or error
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            "not UTF-8",
            where=f"{path}, line {line}",
            found=f"byte 0x{data[error.start]:02x}",
            remedy="convert the file, for example: iconv -f LATIN1 -t UTF-8",
        ) from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def _pairs_of_json_lines(path: Path, text: str) -> Iterator[Item]:
    for index, (where, line) in enumerate(_lines(path, text)):
        values = _object(_parsed(line, where), where)
        good, bad = (_text(values, f"sentence_{name}", where) for name in (_GOOD, _BAD))
        yield Item(
            task=_label(values, "UID", _stem(path), where),
            number=_label(values, "pairID", index, where),
            conditions=(Condition(name=_GOOD, text=good), Condition(name=_BAD, text=bad)),
            groups={key: _label(values, key, "", where) for key in GROUPS if key in values},
        )


def _pairs_of_labelled_lines(path: Path, text: str) -> Iterator[Item]:
    good: str | None = None
    where, pairs = str(path), 0
    for where, line in _lines(path, text):
        label, _, sentence = line.partition("\t")
        expected = "True" if good is None else "False"
        if label != expected or not sentence:
            raise InputError(
                "not the next sentence of a pair",
                where=where,
                found=repr(line[:80]),
                expected=f"{expected}, a tab and a sentence; the sentences of a pair follow each other",
            )
        if good is None:
            good = sentence
            continue
        yield Item(
            task=_stem(path),
            number=str(pairs),
            conditions=(Condition(name=_GOOD, text=good), Condition(name=_BAD, text=sentence)),
        )
        good, pairs = None, pairs + 1
    if good is not None:
        raise InputError("the last pair has no bad sentence", where=where, found=repr(good[:80]))


def _suite(path: Path, text: str) -> Iterator[Item]:
    suite = _object(_parsed(text, str(path)), str(path))
    meta = _object(suite.get("meta", {}), f"{path}, meta")
    if meta.get("metric", "sum") != "sum":
        raise InputError("unsupported metric", where=f"{path}, meta", found=repr(meta["metric"]), expected="'sum'")
    name = _label(meta, "name", _stem(path), f"{path}, meta")
    formulas = _formulas(path, suite, meta)
    for index, value in enumerate(_objects(suite, "items", str(path)), start=1):
        where = f"{path}, item {index}"
        conditions = tuple(_condition(each, where) for each in _objects(value, "conditions", where))
        _check_names([each.name for each in conditions], where, "condition")
        regions = {(each.name, region) for each in conditions for region in (*each.regions, "*")}
        for formula in formulas:
            if missing := formula.regions - regions:
                found = ", ".join(f"({region};%{condition}%)" for condition, region in sorted(missing))
                raise InputError("the item lacks a region of a formula", where=where, found=found)
        yield Item(
            task=name,
            number=_label(value, "item_number", index, where),
            conditions=conditions,
            formulas=formulas,
        )


def _formulas(path: Path, suite: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[Formula, ...]:
    """Return the formulas of a suite, which older suites of SyntaxGym have as plain strings in ``meta``."""
    where = f"{path}, predictions"
    if suite.get("predictions"):
        texts = [_text(each, "formula", where) for each in _objects(suite, "predictions", where)]
    else:
        listed = meta.get("string_predictions")
        texts = listed if isinstance(listed, list) and all(isinstance(each, str) for each in listed) else []
    if not texts:
        raise InputError("there are no predictions", where=where, expected='such as [{"formula": "(1;%a%) < (1;%b%)"}]')
    return tuple(Formula(text, where=f"{where}, {number}") for number, text in enumerate(texts, start=1))


def _condition(value: Mapping[str, Any], where: str) -> Condition:
    name = _text(value, "condition_name", where)
    where = f"{where}, condition {name!r}"
    regions: dict[str, tuple[int, int]] = {}
    text, numbers = "", []
    for region in _objects(value, "regions", where):
        number, content = region.get("region_number"), _text(region, "content", where).strip()
        if type(number) is not int:
            raise InputError("not the number of a region", where=where, found=repr(number)[:80], expected="an int")
        if content and text:
            text += " "
        numbers.append(str(number))
        regions[str(number)] = (len(text), len(text) + len(content))
        text += content
    _check_names(numbers, where, "region")
    return Condition(name=name, text=text, regions=regions)


def _check_names(names: list[str], where: str, what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"a {what} occurs twice", where=where, found=repr(name))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except KeyError as error:
        raise InputError("a key occurs twice", where=where, found=error) from error
    except json.JSONDecodeError as error:
        line = f" of line {error.lineno}" if "\n" in text else ""
        raise InputError("not JSON", where=where, found=f"{error.msg} at character {error.colno}{line}") from error
    except (ValueError, RecursionError) as error:  # an int of thousands of digits, or too many brackets
        raise InputError("not JSON", where=where, found=error) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=where, found=type(value).__name__)
    return value


def _objects(values: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Return the objects in a list that is the value of a key."""
    value = values.get(key)
    if not isinstance(value, list):
        raise InputError(f"{key!r} is not a list", where=where, found="nothing" if value is None else repr(value)[:80])
    return [_object(each, f"{where}, {key}") for each in value]


def _label(values: Mapping[str, Any], key: str, default: str | int, where: str) -> str:
    """Return the name or number that is the value of a key, or a default."""
    return _text({key: str(values.get(key, default))}, key, where)


def _stem(path: Path) -> str:
    if path == STDIN:
        return "standard input"
    return LocalFile(Path(path.with_suffix("").stem if is_gzip(path) else path.stem)).name


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    if key not in values:
        raise InputError(
            f"there is no {key!r}", where=where, found=", ".join(map(ascii, values))[:200] or "nothing", expected=key
        )
    text, problem = checked_text(values[key], key)
    if text is None:
        raise InputError("unusable text", where=where, found=problem)
    return text


_READERS: dict[str, Callable[[Path, str], Iterator[Item]]] = {
    ".jsonl": _pairs_of_json_lines,
    ".json": _suite,
    ".txt": _pairs_of_labelled_lines,
    ".tsv": _pairs_of_labelled_lines,
    "blimp": _pairs_of_json_lines,
    "syntaxgym": _suite,
    "clams": _pairs_of_labelled_lines,
}
