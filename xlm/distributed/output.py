"""A directory of output, which any number of workers fill, and from which a run that died is taken up again.

    part-0000000-0000000.tsv     the output of unit 0 of file 0; in the order of their names, parts are all output
    _meta.json                   what the run is: model, inputs and options
    _run                         who writes here, see ``owner``
    _parts/0000000-0000000.json  that this part is done: rows, problems, digest of its input
    _SUCCESS                     written last: what all parts have together

A part is written before its record, whole. A unit that was worked on twice, because a machine died or was slow, has one
part, the last one that was written; machines of one kind of processor write the same. What begins with an underscore is
no data to other engines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xlm._io.resumable import check_same_run, other_input_error
from xlm.distributed.owner import check_ours, runs_of, take, taken
from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError

_META, _PARTS, _SUCCESS = "_meta.json", "_parts", "_SUCCESS"
_PART, _SIZES = "part-", "sizes"

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

    def begin(self, identity: Mapping[str, Any], *, sizes: Sequence[int], resume: bool) -> dict[UnitName, Record]:
        """Takes the directory for a run.

        Args:
            identity: What the run is, as values of JSON; ``inputs`` are the names of its files.
            sizes: Their bytes. Those of a file that was damaged may be others than when it was read.
            resume: Go on where a run of the same identity stopped; begin when there is none.

        Returns:
            The parts that are done.

        Raises:
            InputError: A run of another identity was cut off there, or the files were others.
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
            self._take(identity, sizes, after=[])
            return {}
        if not resume:
            raise WriteError(
                "the output of another run is in the way",
                where=self.directory.address,
                remedy="go on with it (--resume), remove it, or write somewhere else",
            )
        before = described.pop(_SIZES, [])
        expected = json.loads(json.dumps(dict(identity)))
        check_same_run(described, expected, where=f"{self.directory.address}/{_META}", otherwise="remove the directory")
        runs = runs_of(self.directory) or []
        records = self._records(runs)
        self._check_sizes(identity["inputs"], before, sizes, damaged={each.file for each in records if each.damaged})
        self._take(identity, sizes, after=runs)
        self.directory.remove_unfinished(of_all=True)
        return self._done(records)

    def description(self) -> dict[str, Any] | None:
        """What the run is that the directory belongs to; ``None`` for none.

        Raises:
            InputError: That cannot be read.
        """
        data = self.directory.read(_META)
        found = None if data is None else _object(data)
        if data is not None and found is None:
            raise InputError(
                "what the run was that wrote here cannot be read",
                where=f"{self.directory.address}/{_META}",
                found=ascii(data[:50].decode("latin-1")),
                remedy="remove the directory, or write somewhere else",
            )
        return found

    def _take(self, identity: Mapping[str, Any], sizes: Sequence[int], *, after: list[str]) -> None:
        described = _json({**identity, _SIZES: list(sizes)})
        self.directory.write(_META, described)
        take(self.directory, after=after)
        # Of two that begin at once, one has written its line last. It may not have written last what the run is.
        check_ours(self.directory)
        if self.directory.read(_META) != described:
            raise taken(self.directory)

    def _check_sizes(
        self, names: Sequence[str], before: Sequence[int], now: Sequence[int], *, damaged: set[int]
    ) -> None:
        for file, (name, was, size) in enumerate(zip(names, before, now, strict=True)):
            if was != size and file not in damaged:
                raise other_input_error(
                    f"inputs: {name}",
                    found=f"{size:,} bytes",
                    expected=f"{was:,} bytes, as then",
                    otherwise="start again, in another directory",
                )

    def _records(self, runs: list[str]) -> list[Record]:
        """What these runs have noted; what was cut short, or is another's, counts as not there."""
        names = [f"{_PARTS}/{name}" for name in self.directory.names(_PARTS) if name.endswith(".json")]
        found = map(_object, filter(None, self.directory.read_all(names)))
        records = []
        for values in found:
            if values is not None and values.pop("run", None) in runs:
                with suppress(TypeError):
                    records.append(Record(**values))
        return records

    def _done(self, records: Iterable[Record]) -> dict[UnitName, Record]:
        sizes = self.directory.names()
        # A part that somebody removed or changed is made again.
        return {
            record.name: record
            for record in records
            if not record.damaged and sizes.get(self.part_name(record.name)) == record.bytes
        }

    def part_name(self, unit: UnitName) -> str:
        """Name of a part; the order of names is that of files and units."""
        return f"{_PART}{_numbers(unit)}{self.suffix}"

    def add_part(self, unit: UnitName, source: Path) -> int:
        """Makes or replaces a part of our own run, whole, and returns its bytes.

        Args:
            unit: What it is of.
            source: A file of this machine that holds it.

        Raises:
            InputError: As for ``check_ours``.
            WriteError: As for ``check_ours``, or it cannot be written.
        """
        check_ours(self.directory)
        return self.directory.copy(source, self.part_name(unit))

    def add_record(self, record: Record) -> None:
        """Notes that a part is done, which it is now.

        Raises:
            WriteError: It cannot be written.
        """
        noted = {**asdict(record), "run": self.directory.writer}
        self.directory.write(f"{_PARTS}/{_numbers(record.name)}.json", _json(noted))

    def reopen(self) -> None:
        """Takes back that all parts are there, where a run had said so.

        Raises:
            WriteError: It cannot be.
        """
        self.directory.remove(_SUCCESS)

    def finish(self, identity: Mapping[str, Any], records: Iterable[Record]) -> None:
        """Removes parts that are nobody's, and notes that all are there and what they have together.

        That is not noted as long as a file could not be read to its end.

        Args:
            identity: What the run is.
            records: Of all parts.

        Raises:
            InputError: As for ``check_ours``.
            WriteError: Parts are not there as workers wrote them, or it cannot be written.
        """
        check_ours(self.directory)
        found = sorted(records, key=lambda record: record.name)
        names = {self.part_name(record.name): record.bytes for record in found}
        sizes = self.directory.names()
        wrong = [name for name, size in names.items() if sizes.get(name) != size]
        if wrong:
            first = wrong[0]
            raise WriteError(
                "parts are not in the output directory as workers wrote them",
                where=self.directory.address,
                found=f"{len(wrong):,} of {len(names):,}: {first} has {sizes.get(first, 'no')} bytes, …",
                expected=f"{names[first]:,} bytes",
                remedy="a shared file system or an object store, which nobody else writes to; then --resume",
            )
        for name in sizes.keys() - names.keys():
            if name.startswith(_PART):  # of a file that was damaged, and now has fewer units
                self.directory.remove(name)
                # Else that file would count as damaged for ever, and might have any size in a run that is resumed.
                numbers = name.removeprefix(_PART).removesuffix(self.suffix)
                self.directory.remove(f"{_PARTS}/{numbers}.json")
        if any(record.damaged for record in found):
            return
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
    return f"{unit[0]:07}-{unit[1]:07}"


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode("utf-8")


def _object(data: bytes) -> dict[str, Any] | None:
    """What a file of JSON holds; ``None`` when it was cut short."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
