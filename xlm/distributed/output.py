"""Output directory of a run. Many workers write to it, and an interrupted run can be resumed in it.

    part-0000000-0000000.tsv     output of shard 0 of file 0; sorted by name, the parts are the whole output
    _meta.json                   the description of the run: model, inputs and options
    _run                         the lease: the runs that have written here, the current one last
    _parts/0000000-0000000.json  the record of a finished part: rows, problems, digest of its input
    _SUCCESS                     totals of all parts; written last

A worker first writes a whole part, and then the record of the part. If a shard is processed twice, because a machine
died or was slow, the part that is written last stays. Machines with the same kind of processor write the same bytes.
Other engines ignore names that begin with an underscore.

The lease belongs to the run whose line is the last in ``_run``. Each run adds its line when it begins, and only the
holder of the lease writes parts or ``_SUCCESS``. A worker that finds no ``_run`` reports that its machine does not see
the shared directory.
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
from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError

_META, _LEASE, _PARTS, _SUCCESS = "_meta.json", "_run", "_parts", "_SUCCESS"
_PART, _SIZES = "part-", "sizes"

PartKey = tuple[int, int]
"""Key of a part: the index of the input file, and the index of the shard in that file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The record of a finished part; its fields are the keys of the JSON file.

    Attributes:
        file: Index of the input file.
        unit: Index of the shard in the file.
        rows: Number of input rows.
        problems: Number of rows without a result.
        reasons: Why some of these rows have no result.
        counts: Numbers of tokens, or numbers of continuations by the reason for their end.
        digest: Digest of the rows of the shard.
        bytes: Size of the part in bytes.
        last: Whether the shard is the last one of its file.
        damaged: Whether the input file could not be read beyond this shard.
        processor: Kind of processor that computed the part.
        warnings: Warnings that the worker gave for the shard.
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
    def key(self) -> PartKey:
        """The key of the part."""
        return self.file, self.unit


def totals(records: Iterable[Record]) -> dict[str, Any]:
    """Return the sums of the rows, problems and counts of records, and the kinds of processors."""
    records = list(records)
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.counts)
    return {
        "rows": sum(record.rows for record in records),
        "problems": sum(record.problems for record in records),
        "counts": dict(counts),
        "processors": sorted({record.processor for record in records}),
    }


@dataclass(frozen=True, slots=True)
class Output:
    """The parts of a run, and its state, in an output directory.

    Attributes:
        directory: The output directory.
        suffix: Suffix of the parts' names.

    Raises:
        InputError: Another run has taken the directory; raised by ``begin``, ``add_part`` and ``finish``.
        WriteError: The directory cannot be read or written; raised by every method.
    """

    directory: Directory
    suffix: str

    def begin(self, identity: Mapping[str, Any], *, sizes: Sequence[int], resume: bool) -> dict[PartKey, Record]:
        """Take the directory for a run, and return the records of the parts that are done.

        Args:
            identity: Model, inputs and options of the run, as JSON values; ``inputs`` are the names of its input files.
            sizes: Sizes of the input files. In a resumed run, only a file that was damaged may have a new size.
            resume: Whether to resume an earlier run with the same identity; without such a run, a new run starts.

        Raises:
            InputError: The directory belongs to a run with another identity, or the input files have changed.
            WriteError: The directory is not empty, and ``resume`` is false or the directory holds no run.
        """
        meta = self.description()
        if meta is None:
            names = sorted(self.directory.names())
            if names:
                raise WriteError(
                    "the output directory is not empty",
                    where=self.directory.address,
                    found=", ".join(names[:3]) + (", …" if len(names) > 3 else ""),
                    expected="a new or empty directory, or that of a run to resume",
                    remedy="write to another directory",
                )
            self._take_lease(identity, sizes, previous=[])
            return {}
        if not resume:
            raise WriteError(
                "the output directory belongs to another run",
                where=self.directory.address,
                remedy="resume that run (--resume), remove the directory, or write to another one",
            )
        previous_sizes = meta.pop(_SIZES, [])
        expected = json.loads(json.dumps(dict(identity)))
        check_same_run(meta, expected, where=f"{self.directory.address}/{_META}", otherwise="remove the directory")
        runs = self._runs() or []
        records = self._read_records(runs)
        damaged = {record.file for record in records if record.damaged}
        for file, (name, previous, size) in enumerate(zip(identity["inputs"], previous_sizes, sizes, strict=True)):
            if previous != size and file not in damaged:
                raise other_input_error(
                    f"inputs: {name}",
                    found=f"{size:,} bytes",
                    expected=f"{previous:,} bytes, as in the earlier run",
                    otherwise="start again, in another directory",
                )
        self._take_lease(identity, sizes, previous=runs)
        self.directory.remove_unfinished(of_all=True)
        part_sizes = self.directory.names()
        # Omit the record of a part that was removed or changed, so that the part is computed again.
        return {
            record.key: record
            for record in records
            if not record.damaged and part_sizes.get(self.part_name(record.key)) == record.bytes
        }

    def description(self) -> dict[str, Any] | None:
        """Return the description of the run that the directory belongs to; ``None`` if it belongs to no run.

        Raises:
            InputError: The description cannot be read.
        """
        data = self.directory.read(_META)
        if data is None:
            return None
        meta = _parse_object(data)
        if meta is None:
            raise InputError(
                "the description of the earlier run cannot be read",
                where=f"{self.directory.address}/{_META}",
                found=ascii(data[:50].decode("latin-1")),
                remedy="remove the directory, or write to another one",
            )
        return meta

    def _runs(self) -> list[str] | None:
        data = self.directory.read(_LEASE)
        return None if data is None else data.decode("ascii", "replace").split()

    def _take_lease(self, identity: Mapping[str, Any], sizes: Sequence[int], *, previous: list[str]) -> None:
        meta = _to_json({**identity, _SIZES: list(sizes)})
        self.directory.write(_META, meta)
        self.directory.write(_LEASE, "".join(f"{run}\n" for run in [*previous, self.directory.writer]).encode())
        self._check_lease()
        # If two runs begin at once, one may hold the lease while _meta.json describes the other.
        if self.directory.read(_META) != meta:
            raise self._lease_lost()

    def _check_lease(self) -> None:
        runs = self._runs()
        if runs is None:
            raise WriteError(
                "this machine does not see the output directory of the run",
                where=self.directory.address,
                found=f"no {_LEASE} in it",
                expected="a directory that every machine sees under this name",
                remedy="write to a shared file system or an object store",
            )
        if runs[-1:] != [self.directory.writer]:
            raise self._lease_lost()

    def _lease_lost(self) -> InputError:
        return InputError(
            "another run has taken the output directory",
            where=self.directory.address,
            remedy="wait for that run to end, or write to another directory",
        )

    def _read_records(self, runs: list[str]) -> list[Record]:
        """Return the complete records that these runs wrote."""
        names = [f"{_PARTS}/{name}" for name in self.directory.names(_PARTS) if name.endswith(".json")]
        records = []
        for values in map(_parse_object, filter(None, self.directory.read_all(names))):
            if values is not None and values.pop("run", None) in runs:
                with suppress(TypeError):
                    records.append(Record(**values))
        return records

    def part_name(self, key: PartKey) -> str:
        """Return the name of a part; names sort like their keys."""
        return f"{_PART}{_key_text(key)}{self.suffix}"

    def add_part(self, key: PartKey, source: Path) -> int:
        """Write or replace a part, and return its size in bytes.

        Args:
            key: The key of the part.
            source: A local file with the contents of the part.

        Raises:
            WriteError: This machine cannot see the directory of the run.
        """
        self._check_lease()
        return self.directory.copy(source, self.part_name(key))

    def add_record(self, record: Record) -> None:
        """Write the record of a finished part."""
        values = {**asdict(record), "run": self.directory.writer}
        self.directory.write(f"{_PARTS}/{_key_text(record.key)}.json", _to_json(values))

    def reopen(self) -> None:
        """Remove ``_SUCCESS`` if an earlier run has written it."""
        self.directory.remove(_SUCCESS)

    def finish(self, identity: Mapping[str, Any], records: Iterable[Record]) -> None:
        """Remove parts without a record, and write ``_SUCCESS`` unless an input file is damaged.

        Args:
            identity: As for ``begin``.
            records: The records of all parts.

        Raises:
            WriteError: The size of a part is not what its worker wrote.
        """
        self._check_lease()
        records = sorted(records, key=lambda record: record.key)
        expected = {self.part_name(record.key): record.bytes for record in records}
        sizes = self.directory.names()
        wrong = [name for name, size in expected.items() if sizes.get(name) != size]
        if wrong:
            first = wrong[0]
            raise WriteError(
                "parts in the output directory are not what the workers wrote",
                where=self.directory.address,
                found=f"{len(wrong):,} of {len(expected):,}: {first} has {sizes.get(first, 'no')} bytes",
                expected=f"{expected[first]:,} bytes",
                remedy="write to a shared file system or an object store that nothing else changes; then add --resume",
            )
        for name in sizes.keys() - expected.keys():
            if name.startswith(_PART):  # the part belongs to a file that was damaged and now has fewer shards
                self.directory.remove(name)
                # If the record of this part stayed, it would still mark the file as damaged, and later runs would allow
                # the file to change its size.
                self.directory.remove(f"{_PARTS}/{name.removeprefix(_PART).removesuffix(self.suffix)}.json")
        if not any(record.damaged for record in records):
            parts = [[name, record.rows, record.bytes] for name, record in zip(expected, records, strict=True)]
            self.directory.write(_SUCCESS, _to_json({**identity, **totals(records), "parts": parts}))


def _key_text(key: PartKey) -> str:
    return f"{key[0]:07}-{key[1]:07}"


def _to_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode("utf-8")


def _parse_object(data: bytes) -> dict[str, Any] | None:
    """Return the object in the bytes of a JSON file; ``None`` if the file is incomplete."""
    try:
        values = json.loads(data)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
