"""A run: it applies a task to files, on a cluster, and writes the results to an output directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from xlm.corpus.files import InputFile
from xlm.distributed.cluster import ClusterOptions, connected
from xlm.distributed.output import Output, PartKey, Record
from xlm.distributed.pipeline import PendingFile, build_dataset, error_from_dict, read_results
from xlm.distributed.storage import Directory, absolute
from xlm.distributed.tasks import Task
from xlm.errors import XLMError

# The default size of a part is up to a few megabytes, so that terabytes of input do not give millions of files.
_MAX_ROWS = 1 << 16
_PARTS_PER_WORKER = 16
_BYTES_PER_ROW = 128
_MAX_IDLE_PASSES = 3
_FAILURES_PER_WORKER = 5
_LOG_LINES = 3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(kw_only=True)
class Run:
    """Run of a task over files.

    Attributes:
        task: The task.
        files: The input files, in the order of the output.
        output: Path or address of the output directory, which every machine must see.
        cluster: Which cluster to use.
        format: As for ``Corpus``.
        column: As for ``Corpus``.
        windows_per_file: Number of windows in a part. ``None`` means the number in the resumed run; in a new run, it
            means about 16 parts for each worker, of at most 65,536 rows each.
        resume: Whether to resume an earlier run with the same identity; without such a run, a new run starts.
        progress: Whether Ray shows progress bars.
        resumed: Number of parts that earlier runs have finished.
    """

    task: Task
    files: Sequence[InputFile]
    output: str
    cluster: ClusterOptions
    format: str | None = None
    column: str | None = None
    windows_per_file: int | None = None
    resume: bool = False
    progress: bool = False
    resumed: int = field(default=0, init=False)
    _records: dict[PartKey, Record] = field(default_factory=dict, init=False)

    def __call__(self, identity: Mapping[str, Any]) -> list[Record]:
        """Process all files, and return the records of all parts in the order of the output.

        Args:
            identity: What ``task.identity()`` returned.

        Raises:
            DependencyError: Ray is not installed.
            InputError: The output directory belongs to a run with another identity, another run has taken it, or the
                input has changed.
            WriteError: The output directory is not empty, or cannot be written.
            XLMError: No cluster answers, or workers fail. Finished parts stay, and the run can be resumed.
        """
        output = Output(Directory(absolute(self.output)), self.task.suffix)
        with connected(self.cluster) as ray:
            workers = self.cluster.workers(ray.cluster_resources())
            windows = self.windows_per_file or self._previous_windows(output) or self._default_windows(workers)
            description = {
                **identity,
                "input_format": self.format,
                "column": self.column,
                "read_ahead": self.task.read_at_once,
                "threads": self.cluster.threads_per_worker,
                "windows_per_file": windows,
                "inputs": [file.name for file in self.files],
            }
            self._records = output.begin(description, sizes=[file.size() for file in self.files], resume=self.resume)
            self.resumed = len(self._records)
            if self._pending():
                output.reopen()
            dataset_of = partial(
                build_dataset,
                ray,
                reading={
                    "files": list(self.files),
                    "format": self.format,
                    "column": self.column,
                    "whole": self.task.whole,
                    "groups": self.task.groups,
                    "read_at_once": self.task.read_at_once,
                    "windows_per_shard": windows,
                },
                writing={"task": self.task, "identity": dict(identity), "output": output},
                cluster=self.cluster,
                workers=workers,
            )
            try:
                self._process(ray, dataset_of, max_failures=_FAILURES_PER_WORKER * workers)
                records = [record for _, record in sorted(self._records.items())]
                output.finish(description, records)
            finally:
                output.directory.remove_unfinished()
        return records

    def _previous_windows(self, output: Output) -> int | None:
        windows = (output.description() or {}).get("windows_per_file") if self.resume else None
        return windows if isinstance(windows, int) else None

    def _default_windows(self, workers: int) -> int:
        rows = sum(file.size() for file in self.files) // _BYTES_PER_ROW // (workers * _PARTS_PER_WORKER)
        return max(1, min(_MAX_ROWS, rows) // self.task.read_at_once)

    def _process(self, ray: Any, dataset_of: Callable[[list[PendingFile]], Any], *, max_failures: int) -> None:
        """Process missing shards in passes until none is left. The next pass processes the shards of a dead machine."""
        idle_passes = 0
        last_error: XLMError | None = None
        with log_capture() as log:
            while pending := self._pending():
                if idle_passes == _MAX_IDLE_PASSES:
                    raise last_error or XLMError(
                        "workers kept dying before they finished a part",
                        where=f"{len(pending):,} unfinished files",
                        found=log.last_error,
                        remedy="see Ray's logs (/tmp/ray/session_latest/logs); if the workers ran out of memory, use "
                        "fewer workers or a smaller --windows-per-file",
                    )
                # Drop the records of damaged shards: their files are read again, perhaps up to another position.
                again = {file for file, _ in pending}
                self._records = {
                    key: record
                    for key, record in self._records.items()
                    if not (record.damaged and record.file in again)
                }
                done = self._done()
                last_error = self._run_pass(ray, dataset_of(pending), max_failures=max_failures)
                idle_passes = idle_passes + 1 if self._done() == done else 0

    def _run_pass(self, ray: Any, dataset: Any, *, max_failures: int) -> XLMError | None:
        """Store the records of one pass. Return its last error after which another pass may succeed, or ``None``."""
        last_error, failures = None, 0
        try:
            with closing(read_results(dataset, progress=self.progress)) as results:
                for result in results:
                    if "error" not in result:
                        record = Record(**result)
                        self._records[record.key] = record
                        failures = 0
                        continue
                    last_error, failures = error_from_dict(result), failures + 1
                    if not result["retry"] or failures > max_failures:
                        raise last_error
        except ray.exceptions.RayError as error:
            raise XLMError(
                "the Ray cluster failed",
                found=_last_lines(str(error)),
                remedy="run the command again with --resume; finished parts are kept",
            ) from error
        return last_error

    def _done(self) -> int:
        return sum(not record.damaged for record in self._records.values())

    def _pending(self) -> list[PendingFile]:
        """Return the unfinished files, each with its finished shards that were not damaged."""
        by_file: dict[int, dict[int, Record]] = {file: {} for file in range(len(self.files))}
        for record in self._records.values():
            by_file[record.file][record.unit] = record
        return [
            (file, {str(index): (each.digest, each.last) for index, each in shards.items() if not each.damaged})
            for file, shards in by_file.items()
            # A finished file has all shards up to the last one.
            if [index for index, record in shards.items() if record.last] != [len(shards) - 1]
        ]


class _LastError(logging.Handler):
    last_error: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        reason = record.exc_info[1] if record.exc_info else None
        self.last_error = _last_lines(record.getMessage() if reason is None else str(reason))


@contextmanager
def log_capture() -> Iterator[_LastError]:
    """Yield a handler that keeps the last error that Ray Data logs.

    Until the block ends, the terminal shows only warnings about missing resources. Ray's log files get all messages.
    """
    logger = logging.getLogger("ray.data")
    terminals = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    capture = _LastError(logging.ERROR)
    logger.addHandler(capture)
    for terminal in terminals:
        terminal.addFilter(_is_about_resources)
    try:
        yield capture
    finally:
        logger.removeHandler(capture)
        for terminal in terminals:
            terminal.removeFilter(_is_about_resources)


def _is_about_resources(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and "resources are not enough" in record.getMessage()


def _last_lines(text: str) -> str:
    """Return the last lines of a message from Ray, without colours and underlining."""
    lines = [line for line in _COLOURS.sub("", text).splitlines() if line.strip(" ^~")]
    return "\n".join(lines[-_LOG_LINES:])
