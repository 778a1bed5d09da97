"""A directory of output, which any number of workers fill, and from which a run that died is taken up again.

    part-00000-0000000.tsv     the output of unit 0 of file 0; in the order of their names, parts are all output
    _meta.json                 what the run is: model, inputs and options
    _parts/00000-0000000.json  that this part is done: rows, problems, digest of its input
    _SUCCESS                   written last: what all parts have together

A part is written before its record and never changes, whoever writes it and however often: a unit that was worked on
twice, because a machine died or was slow, has one part. What begins with an underscore is no data to other engines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError
from xlm.scoring.resumable import check_same_run

_META, _PARTS, _SUCCESS = "_meta.json", "_parts", "_SUCCESS"
_READ_AT_ONCE = 16

UnitName = tuple[int, int]
"""Number of the file, number of the unit in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of a part that is done.

    Attributes:
        file: Number of its file.
        unit: Number of its unit.
        rows: Input rows.
        problems: How many of them have no output of their own.
        reasons: Why, of some.
        counts: Tokens, or ends of continuations.
        digest: Identifies its input.
        bytes: Of the part.
        last: Whether its file ends with it.
        damaged: Whether its file could not be read further.
        processor: What it was computed on.
        warnings: What the worker was warned of.
    """

    file: int
    unit: int
    rows: int
    problems: int
    reasons: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    digest: str
    bytes: int
    last: bool
    damaged: bool
    processor: str
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> UnitName:
        """Of its unit."""
        return self.file, self.unit


@dataclass(frozen=True, slots=True)
class Output:
    """The directory.

    Attributes:
        directory: Where it is.
        suffix: What names of parts end with.
    """

    directory: Directory
    suffix: str

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> dict[UnitName, Record]:
        """Takes the directory for a run.

        Args:
            identity: What the run is, as values of JSON.
            resume: Go on where a run of the same identity stopped; begin when there is none.

        Returns:
            The parts that are done.

        Raises:
            InputError: A run of another identity was cut off there.
            WriteError: Something is there and is not to be resumed, or the directory cannot be used.
        """
        described = self.description()
        if described is None:
            there = sorted(self.directory.names())
            if there:
                raise WriteError(
                    "the output directory is not empty",
                    where=self.directory.address,
                    found=", ".join(there[:3]) + (", …" if len(there) > 3 else ""),
                    expected="a new or empty directory, or one that a run was cut off in",
                    remedy="write somewhere else",
                )
            self.directory.write(_META, _json(dict(identity)))
            return {}
        if not resume:
            raise WriteError(
                "the output of another run is in the way",
                where=self.directory.address,
                remedy="go on with it (--resume), remove it, or write somewhere else",
            )
        where = f"{self.directory.address}/{_META}"
        expected = json.loads(json.dumps(dict(identity)))
        check_same_run(described, expected, where=where, otherwise="remove the directory")
        return self._done()

    def description(self) -> dict[str, Any] | None:
        """What the run is that the directory belongs to; ``None`` for none.

        Raises:
            InputError: That cannot be read.
        """
        data = self.directory.read(_META)
        return None if data is None else _read_object(data, f"{self.directory.address}/{_META}")

    def _done(self) -> dict[UnitName, Record]:
        sizes = self.directory.names()
        names = [name for name in self.directory.names(_PARTS) if name.endswith(".json")]
        with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
            records = [record for record in threads.map(self._record, names) if record is not None]
        # A part that somebody removed or changed is made again.
        return {
            record.name: record
            for record in records
            if not record.damaged and sizes.get(self.part_name(record.name)) == record.bytes
        }

    def _record(self, name: str) -> Record | None:
        data = self.directory.read(f"{_PARTS}/{name}")
        if data is None:
            return None
        try:
            return Record(**_read_object(data, name))
        except TypeError as error:
            raise _unreadable(f"{self.directory.address}/{_PARTS}/{name}", error) from error

    def part_name(self, unit: UnitName) -> str:
        """Name of a part; the order of names is that of files and units."""
        return f"part-{_numbers(unit)}{self.suffix}"

    def add_part(self, unit: UnitName, source: Path) -> int:
        """Makes or replaces a part, whole, and returns its bytes.

        Args:
            unit: What it is of.
            source: A file of this machine that holds it.

        Raises:
            WriteError: It cannot be written.
        """
        return self.directory.copy(source, self.part_name(unit))

    def add_record(self, record: Record) -> None:
        """Notes that a part is done, which it is now.

        Raises:
            WriteError: It cannot be written.
        """
        self.directory.write(f"{_PARTS}/{_numbers(record.name)}.json", _json(asdict(record)))

    def reopen(self) -> None:
        """Takes back that all parts are there, where a run had said so.

        Raises:
            WriteError: It cannot be.
        """
        self.directory.remove(_SUCCESS)

    def finish(self, identity: Mapping[str, Any], records: Iterable[Record]) -> None:
        """Notes that all parts are there, and what they have together.

        Args:
            identity: What the run is.
            records: Of all parts.

        Raises:
            WriteError: Parts are not where this machine looks for them, or it cannot be written.
        """
        found = sorted(records, key=lambda record: record.name)
        sizes = self.directory.names()
        missing = [name for name in (self.part_name(record.name) for record in found) if name not in sizes]
        if missing:
            raise WriteError(
                "workers wrote parts that are not in the output directory of this machine",
                where=self.directory.address,
                found=f"{len(missing):,} of {len(found):,} are not here: {missing[0]}, …",
                expected="a directory that every machine sees under this name",
                remedy="a shared file system, or an object store",
            )
        counts: Counter[str] = Counter()
        for record in found:
            counts.update(record.counts)
        summary = {
            **identity,
            "rows": sum(record.rows for record in found),
            "problems": sum(record.problems for record in found),
            "counts": dict(counts),
            "processors": sorted({record.processor for record in found}),
            "parts": [[self.part_name(record.name), record.rows, record.bytes] for record in found],
        }
        self.directory.write(_SUCCESS, _json(summary))


def _numbers(unit: UnitName) -> str:
    return f"{unit[0]:05}-{unit[1]:07}"


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode("utf-8")


def _read_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> InputError:
    return InputError(
        "what a run left cannot be read",
        where=where,
        found=repr(error),
        remedy="remove the file; its part is made again",
    )
