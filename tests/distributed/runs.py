"""Runs of the command on this machine and on a cluster, and what they wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.distributed.local_cluster import REPOSITORY, LocalCluster, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCAL = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
"""One thread, as a worker has."""


def command(*arguments: str | Path) -> list[str]:
    """The command line of ``xlm``."""
    return [sys.executable, "-m", "xlm", *map(str, arguments)]


def locally(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of ``xlm`` in one process of one thread, and returns how it ended."""
    return subprocess.run(command(*arguments), env=_LOCAL, capture_output=True, text=True, check=False)


def on(cluster: LocalCluster, *arguments: str | Path, output: Path, workers: int = 3) -> list[str]:
    """The command line of ``xlm`` that does the same on a cluster, into a directory."""
    where = ("--address", cluster.address, "--concurrency", str(workers))
    return command(*arguments, "--engine", "ray", *where, "--output-dir", output)


@contextmanager
def started(cluster: LocalCluster, line: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A command line in a process of its own, which does not outlive the block."""
    with subprocess.Popen(
        list(line), env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(cluster: LocalCluster, line: Sequence[str], *, status: int = 0) -> str:
    """Runs a command line to its end and returns what it printed.

    Raises:
        AssertionError: It ended with another status.
    """
    done = subprocess.run(
        list(line), env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def parts(directory: Path) -> list[Path]:
    """The parts of a directory of output that are there, in their order."""
    return sorted(directory.glob("part-*"))


def wait_for_parts(directory: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Returns as soon as so many parts are there.

    Raises:
        AssertionError: The process that makes them ended before.
        TimeoutError: They did not come within ten minutes.
    """

    def enough() -> bool:
        assert process.poll() is None, f"ended with {process.returncode} at {len(parts(directory))} parts"
        return len(parts(directory)) >= count

    wait_until(enough, seconds=600)


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of each part, by its name."""
    return {path.name: path.read_bytes() for path in parts(directory)}


def joined(directory: Path, *, header: bool) -> bytes:
    """The bytes of all parts, one after the other.

    Args:
        directory: The output of a run.
        header: Whether each part begins with a line of column names, which is to be there once.
    """
    found = list(contents(directory).values())
    if not header:
        return b"".join(found)
    heads = {data.partition(b"\n")[0] for data in found}
    assert len(heads) == 1
    return heads.pop() + b"\n" + b"".join(data.partition(b"\n")[2] for data in found)


def table(*paths: Path) -> Any:
    """Parquet files as one table of Arrow, without what is noted about it."""
    import pyarrow
    import pyarrow.parquet

    return pyarrow.concat_tables([pyarrow.parquet.read_table(path).replace_schema_metadata(None) for path in paths])
