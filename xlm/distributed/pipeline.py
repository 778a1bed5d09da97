"""The Ray Data pipeline: a reader cuts files into shards, and workers write a part of the output for each shard.

The stages exchange tables with one column of JSON: unfinished files, then shards, then results (records or errors).
"""

from __future__ import annotations

import json
import socket
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from xlm import errors
from xlm._io.resumable import other_input_error
from xlm.corpus.files import InputFile
from xlm.corpus.rows import Corpus
from xlm.distributed.cluster import ClusterOptions
from xlm.distributed.output import Output, Record
from xlm.distributed.shards import Shard, shards_of
from xlm.errors import InputError, WriteError, XLMError, XLMWarning

if TYPE_CHECKING:
    from xlm.distributed.tasks import Compute, Groups, Task

_COLUMN = "data"
_MAX_READ_TASKS = 1000
_WORKERS_PER_READER = 16
_SHARDS_IN_FLIGHT = 2  # shards for each worker: one in progress and one waiting
_MAX_REASONS = 5

PendingFile = tuple[int, dict[str, tuple[str, bool]]]
"""File with missing shards: its index, and for each finished shard, by index, its digest and whether it is the last."""


def build_dataset(
    ray: Any,
    pending: Sequence[PendingFile],
    *,
    reading: Mapping[str, Any],
    writing: Mapping[str, Any],
    cluster: ClusterOptions,
    workers: int,
) -> Any:
    """Return a lazy Ray dataset of the results of all shards that are missing.

    Args:
        ray: The ``ray`` module.
        pending: The unfinished files.
        reading: Keyword arguments of ``read_shards``.
        writing: Keyword arguments of ``PartWriter``.
        cluster: The resources of each worker.
        workers: Number of workers.
    """
    size = -(-len(pending) // _MAX_READ_TASKS)
    blocks = [table_of(*pending[first : first + size]) for first in range(0, len(pending), size)]
    with _one_row_per_block(ray):
        return (
            ray.data.from_arrow(blocks)
            .map_batches(
                read_shards,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs=dict(reading),
                num_cpus=0,  # reserve no CPU for readers, because the workers may occupy all CPUs
                compute=ray.data.TaskPoolStrategy(size=min(-(-workers // _WORKERS_PER_READER), len(blocks))),
            )
            .map_batches(
                PartWriter,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_kwargs=dict(writing),
                num_cpus=cluster.threads_per_worker,
                num_gpus=cluster.gpus_per_worker or None,
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=_SHARDS_IN_FLIGHT),
                # A dead worker restarts on any machine with room, but there may be none, so its shards are dropped here
                # and processed in the next pass.
                ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": 0},
            )
        )


@contextmanager
def _one_row_per_block(ray: Any) -> Iterator[None]:
    """Make Ray Data put each row into a block of its own, and drop blocks that fail.

    Rows in one block would all go to the same worker.
    """
    context = ray.data.DataContext.get_current()
    settings = context.target_max_block_size, context.max_errored_blocks
    context.target_max_block_size, context.max_errored_blocks = 1, -1
    try:
        with warnings.catch_warnings():
            # Ray 2.60 deprecates this argument, but nothing else sets how often a dead worker's tasks are retried.
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
            yield
    finally:
        context.target_max_block_size, context.max_errored_blocks = settings


def read_results(dataset: Any, *, progress: bool) -> Generator[dict[str, Any], None, None]:
    """Compute a dataset, and yield the result of each shard as it arrives: a record or an error.

    Args:
        dataset: The dataset of ``build_dataset``.
        progress: Whether Ray shows progress bars.
    """
    dataset.context.enable_progress_bars = progress
    with warnings.catch_warnings():
        # A small input causes this warning, and the user can do nothing about it.
        warnings.filterwarnings("ignore", "The minimum number of concurrent actors")
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from map(json.loads, _cells(batch))


def read_shards(
    pending: Any,
    *,
    files: Sequence[InputFile],
    format: str | None,
    column: str | None,
    whole: bool,
    groups: Groups | None,
    read_at_once: int,
    windows_per_shard: int,
) -> Iterator[Any]:
    """Read files, and yield a one-row table for each missing shard and for each error.

    Args:
        pending: A table of unfinished files.
        files: All input files of the run.
        format: As for ``Corpus``.
        column: As for ``Corpus``.
        whole: As for ``Corpus``.
        groups: As for ``Task``.
        read_at_once: As for ``shards_of``.
        windows_per_shard: As for ``shards_of``.
    """
    for data in _cells(pending):
        file, done = json.loads(data)
        name = files[file].name
        corpus = Corpus([files[file]], format=format, column=column, whole=whole)
        try:
            with closing(corpus), warnings.catch_warnings():
                warnings.simplefilter("ignore", XLMWarning)  # the shards carry these warnings to the driver
                for shard in shards_of(
                    corpus,
                    file=file,
                    read_at_once=read_at_once,
                    windows_per_shard=windows_per_shard,
                    groups=None if groups is None else partial(groups, warn=corpus.warn),
                ):
                    if shard.damaged and any(int(index) >= shard.index for index in done):
                        # An earlier pass could read the file further, so a later pass may be able to do so again.
                        error = InputError(
                            "the input cannot be read as far as in an earlier pass",
                            where=name,
                            found=shard.windows[-1][-1].problem,
                            remedy="run the command again with --resume when the file can be read",
                        )
                        yield table_of(error_to_dict(error, retry=True))
                        continue
                    digest, last = done.get(str(shard.index), (None, None))
                    if digest is None or (digest == shard.digest and last != shard.last):
                        yield table_of(shard.to_bytes())
                    elif digest != shard.digest:
                        raise other_input_error(
                            name, found="other texts", otherwise="start again, in another directory"
                        )
        except Exception as error:  # the error is passed on as a result, and the driver raises it
            yield table_of(error_to_dict(error))


class PartWriter:
    """Worker that computes shards and writes their parts.

    Args:
        task: The task; its model is loaded when the first shard arrives.
        identity: What ``task.identity()`` returned on the driver.
        output: The output to write parts and records to.
    """

    def __init__(self, task: Task, identity: dict[str, Any], output: Output) -> None:
        self._task, self._identity, self._output = task, identity, output
        self._compute: Compute | None = None

    def __call__(self, shards: Any) -> Any:
        """Process a table of shards, and return a table with one result for each: a record or an error.

        Errors are returned, since Ray would treat an exception as a failure of the machine.
        """
        return table_of(*map(self._result, _cells(shards)))

    def _result(self, data: bytes) -> dict[str, Any]:
        if data.startswith(b"{"):  # the row is an error of the reader, not a shard
            return dict(json.loads(data))
        try:
            shard = Shard.from_bytes(data)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", XLMWarning)
                self._compute = self._compute or self._task.start(self._identity)
                record = self._write_part(shard, self._compute, caught)
            self._output.add_record(record)
            return asdict(record)
        except Exception as error:
            return error_to_dict(error)

    def _write_part(self, shard: Shard, compute: Compute, caught: list[warnings.WarningMessage]) -> Record:
        import torch

        from xlm.inference.loading import processor_name

        counts: Counter[str] = Counter()
        problems, reasons = 0, []
        with tempfile.TemporaryDirectory(prefix="xlm-") as directory:
            lines, finished = Path(directory, "lines"), Path(directory, "part")
            with lines.open("wb") as file:
                file.write(self._task.header)
                for window in shard.windows:
                    output = compute(window, shard.file)
                    file.write(output.data)
                    counts.update(output.counts)
                    problems += output.problems
                    reasons += [f"{row.file}, line {row.number}: {reason}" for row, reason in output.reasons]
            self._task.finish(lines, finished, self._identity)
            size = self._output.add_part((shard.file, shard.index), finished)
        warned = {str(message.message) for message in caught if issubclass(message.category, XLMWarning)}
        return Record(
            file=shard.file,
            unit=shard.index,
            rows=sum(map(len, shard.windows)),
            problems=problems,
            reasons=reasons[:_MAX_REASONS],
            counts=dict(counts),
            digest=shard.digest,
            bytes=size,
            last=shard.last,
            damaged=shard.damaged,
            processor=processor_name(torch.device(self._identity.get("device", "cpu"))),
            warnings=sorted({*shard.warnings, *warned}),
        )


def table_of(*values: Any) -> Any:
    """Return a table with one column of bytes; values that are not bytes are encoded as JSON."""
    cells = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    return pyarrow.table({_COLUMN: pyarrow.array(cells, pyarrow.large_binary())})


def _cells(table: Any) -> list[bytes]:
    cells: list[bytes] = table.column(_COLUMN).to_pylist()
    return cells


def error_to_dict(error: Exception, *, retry: bool = False) -> dict[str, Any]:
    """Return an error and the name of this machine as JSON values.

    Args:
        error: The error.
        retry: Whether a second attempt may succeed; always assumed for I/O errors.
    """
    # Every WriteError is an OSError, but only a WriteError with an OSError as its cause is worth a second attempt.
    retry = retry or isinstance(error.__cause__ if isinstance(error, WriteError) else error, OSError)
    host = socket.gethostname()
    if not isinstance(error, XLMError):
        failure = f"a worker failed: {type(error).__name__}: {error}"
        error = XLMError(failure, found="".join(traceback.format_exception(error)).rstrip())
    fields = {name: getattr(error, name) for name in ("found", "expected", "remedy")}
    return {
        "error": type(error).__name__,
        "what": error.what,
        "where": host if error.where is None else f"{error.where}, on {host}",
        **{name: None if value is None else str(value) for name, value in fields.items()},
        "retry": retry,
    }


def error_from_dict(values: Mapping[str, Any]) -> XLMError:
    """Return the error that ``error_to_dict`` encoded: an ``XLMError`` even if it came from another library."""
    error_class: Callable[..., XLMError] = getattr(errors, values["error"])
    return error_class(values["what"], **{name: values[name] for name in ("where", "found", "expected", "remedy")})
