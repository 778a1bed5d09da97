"""One run: a work over files, on a cluster, into a directory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from xlm.corpus.files import InputFile
from xlm.distributed.cluster import ClusterOptions, connected
from xlm.distributed.datasets import blocks_of_one_row, results
from xlm.distributed.notes import brief, listening
from xlm.distributed.output import Output, Record, UnitName
from xlm.distributed.stages import TASK, PartWriter, Reading, read_units, rebuilt, table_of
from xlm.distributed.storage import Directory, absolute
from xlm.distributed.work import Work
from xlm.errors import XLMError

MOST_ROWS = 1 << 16
"""Rows of a part, at most, when no windows are given: some megabytes of text, which a reader holds with ease, while
terabytes do not end in millions of files."""

_PARTS_A_WORKER = 16
_BYTES_A_ROW = 128
_WORKERS_A_READER = 16
_IN_FLIGHT = 2  # units that a worker has: one that it works on, one that has come
_READ_TASKS = 1000
_IDLE_PASSES = 3
_FAILURES_A_WORKER = 5

Task = tuple[int, dict[str, tuple[str, bool]]]
"""Number of a file; of its units that are done, by their numbers, the digest and whether it is the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a run gave.

    Attributes:
        rows: Input rows.
        problems: How many of them have no output of their own.
        reasons: Why, of some.
        counts: Tokens, or ends of continuations.
        damaged: Names of files that could not be read to their ends.
        processors: What computed; the last digits of several kinds may differ.
        warnings: What workers were warned of.
        resumed: Parts that another run had made.
        parts: All parts.
    """

    rows: int
    problems: int
    reasons: list[str]
    counts: dict[str, int]
    damaged: list[str]
    processors: list[str]
    warnings: list[str]
    resumed: int
    parts: int


@dataclass(kw_only=True)
class Run:
    """A work over files.

    Attributes:
        work: What is to be done.
        files: The input, in the order of the output.
        output: The directory to fill: a path or an address that every machine sees.
        cluster: Where to work.
        form: As for ``Corpus``.
        column: As for ``Corpus``.
        windows_per_file: Windows of a part; ``None`` for as many as give each worker some 16 parts, up to
            ``MOST_ROWS`` rows, or as the run has that is resumed.
        resume: Go on where a run of the same identity stopped; begin when there is none.
        progress: Whether Ray shows its bars.
    """

    work: Work
    files: Sequence[InputFile]
    output: str
    cluster: ClusterOptions
    form: str | None = None
    column: str | None = None
    windows_per_file: int | None = None
    resume: bool = False
    progress: bool = False
    _records: dict[UnitName, Record] = field(default_factory=dict)

    def __call__(self, identity: Mapping[str, Any]) -> Summary:
        """Does it.

        Args:
            identity: What ``work.identity()`` gave.

        Raises:
            DependencyError: Ray is not installed.
            InputError: A run of another identity was cut off there, another run took the directory, or the input is
                another one than it was.
            WriteError: Something is in the way, or cannot be written.
            XLMError: There is no such cluster, or a worker failed; what is done can be resumed.
        """
        output = Output(Directory(absolute(self.output)), self.work.suffix)
        with connected(self.cluster) as ray:
            workers = self.cluster.workers(ray.cluster_resources())
            windows = self.windows_per_file or self._windows_before(output) or self._windows_for(workers)
            whole = {
                **identity,
                "input_format": self.form,
                "column": self.column,
                "read_ahead": self.work.read_at_once,
                "threads": self.cluster.threads_per_worker,
                "windows_per_file": windows,
                "inputs": [file.name for file in self.files],
            }
            self._records = output.begin(whole, sizes=[file.size() for file in self.files], resume=self.resume)
            resumed = len(self._records)
            reading = Reading(
                form=self.form,
                column=self.column,
                read_at_once=self.work.read_at_once,
                windows_per_unit=windows,
            )
            try:
                self._work_off(ray, workers, reading, output, dict(identity))
                records = self._in_order()
                output.finish(whole, records)
            finally:
                output.directory.remove_unfinished()
        return self._summary(records, resumed)

    def _windows_before(self, output: Output) -> int | None:
        found = (output.description() or {}).get("windows_per_file") if self.resume else None
        return found if isinstance(found, int) else None

    def _windows_for(self, workers: int) -> int:
        rows = sum(file.size() for file in self.files) // _BYTES_A_ROW // (workers * _PARTS_A_WORKER)
        return max(1, min(MOST_ROWS, rows) // self.work.read_at_once)

    def _work_off(self, ray: Any, workers: int, reading: Reading, output: Output, identity: dict[str, Any]) -> None:
        """Passes over what is missing, until nothing is: what machines took with them comes again in the next one."""
        idle = 0
        last: XLMError | None = None
        if self._tasks():
            output.reopen()
        with listening() as heard:
            while tasks := self._tasks():
                if idle == _IDLE_PASSES:
                    raise last or _no_worker_lives(len(tasks), heard.error)
                self._forget_damaged(tasks)
                done = self._undamaged()
                dataset = self._dataset(ray, workers, reading, output, identity, tasks)
                last = self._taken(ray, dataset, most_failures=_FAILURES_A_WORKER * workers)
                idle = idle + 1 if self._undamaged() == done else 0

    def _taken(self, ray: Any, dataset: Any, *, most_failures: int) -> XLMError | None:
        """Takes the results of a pass; returns the last error of units that were given up for the next one."""
        last, failures = None, 0
        try:
            with closing(results(dataset, progress=self.progress)) as found:
                for result in found:
                    if "error" not in result:
                        record = Record(**result)
                        self._records[record.name] = record
                        failures = 0
                        continue
                    last, failures = rebuilt(result), failures + 1
                    if not result["again"] or failures > most_failures:
                        raise last
        except ray.exceptions.RayError as error:
            raise XLMError(
                "the cluster failed",
                found=brief(str(error)),
                remedy="what is done stays: run it again with --resume",
            ) from error
        return last

    def _undamaged(self) -> int:
        return sum(not record.damaged for record in self._records.values())

    def _forget_damaged(self, tasks: list[Task]) -> None:
        """Forgets the ends of files that are to be read again, which may be elsewhere by then."""
        files = {file for file, _ in tasks}
        self._records = {
            name: each for name, each in self._records.items() if not (each.damaged and each.file in files)
        }

    def _tasks(self) -> list[Task]:
        """The files that are not done, with the units of them that are, but for those where a file was damaged."""
        units: dict[int, dict[int, Record]] = {}
        for record in self._records.values():
            units.setdefault(record.file, {})[record.unit] = record
        return [
            (file, {str(unit): (each.digest, each.last) for unit, each in found.items() if not each.damaged})
            for file in range(len(self.files))
            if not _complete(found := units.get(file, {}))
        ]

    def _dataset(
        self,
        ray: Any,
        workers: int,
        reading: Reading,
        output: Output,
        identity: dict[str, Any],
        tasks: list[Task],
    ) -> Any:
        each = -(-len(tasks) // _READ_TASKS)
        blocks = [
            table_of(TASK, *(json.dumps(task).encode() for task in tasks[first : first + each]))
            for first in range(0, len(tasks), each)
        ]
        with blocks_of_one_row(ray):
            return (
                ray.data.from_arrow(blocks)
                .map_batches(
                    read_units,
                    batch_size=None,
                    batch_format="pyarrow",
                    fn_kwargs={"files": list(self.files), "reading": reading},
                    # No CPU of its own: the workers may have taken all that there are.
                    num_cpus=0,
                    compute=ray.data.TaskPoolStrategy(size=min(-(-workers // _WORKERS_A_READER), len(blocks))),
                )
                .map_batches(
                    PartWriter,
                    batch_size=1,
                    batch_format="pyarrow",
                    fn_constructor_kwargs={"work": self.work, "identity": identity, "output": output},
                    num_cpus=self.cluster.threads_per_worker,
                    num_gpus=self.cluster.gpus_per_worker or None,
                    compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT),
                    # A worker that died starts again where there is room. Its units do not wait for that, there may be
                    # no room: they are given up, and done in the next pass.
                    ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": 0},
                )
            )

    def _in_order(self) -> list[Record]:
        return [self._records[name] for name in sorted(self._records)]

    def _summary(self, records: list[Record], resumed: int) -> Summary:
        counts: Counter[str] = Counter()
        for record in records:
            counts.update(record.counts)
        return Summary(
            rows=sum(record.rows for record in records),
            problems=sum(record.problems for record in records),
            reasons=[reason for record in records for reason in record.reasons],
            counts=dict(counts),
            damaged=[self.files[record.file].name for record in records if record.damaged],
            processors=sorted({record.processor for record in records}),
            warnings=sorted({warning for record in records for warning in record.warnings}),
            resumed=resumed,
            parts=len(records),
        )


def _complete(units: Mapping[int, Record]) -> bool:
    """Whether these are all units of a file, of which one is the last."""
    return [unit for unit, record in units.items() if record.last] == [len(units) - 1]


def _no_worker_lives(files: int, reason: str | None) -> XLMError:
    return XLMError(
        "workers ended again and again before any of them had done a unit of work",
        where=f"{files:,} files are not done",
        found=reason,
        remedy="Ray's logs say more (/tmp/ray/session_latest/logs); more memory a worker, or fewer windows a file, if "
        "they were killed for their memory",
    )
