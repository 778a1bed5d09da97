"""Runs of commands on this machine and on a cluster, and their output."""

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
"""The environment of a process with one thread, like a worker."""


def command(*arguments: str | Path) -> list[str]:
    """Return a command line of ``xlm``."""
    return [sys.executable, "-m", "xlm", *map(str, arguments)]


def locally(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of ``xlm`` in one process with one thread, and return the result."""
    return subprocess.run(command(*arguments), env=_LOCAL, capture_output=True, text=True, check=False)


def on(cluster: LocalCluster, *arguments: str | Path, output: Path, workers: int = 3) -> list[str]:
    """Return the command line of ``xlm`` that does the same on a cluster, into a directory."""
    where = ("--address", cluster.address, "--concurrency", str(workers))
    return command(*arguments, "--engine", "ray", *where, "--output-dir", output)


@contextmanager
def started(cluster: LocalCluster, line: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that runs a command line and ends with the block."""
    with subprocess.Popen(
        list(line), env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(cluster: LocalCluster, line: Sequence[str], *, status: int = 0) -> str:
    """Run a command line, and return what it printed.

    Raises:
        AssertionError: The exit status is another one.
    """
    done = subprocess.run(
        list(line), env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def parts(directory: Path) -> list[Path]:
    """Return the parts that an output directory holds, in order."""
    return sorted(directory.glob("part-*"))


def wait_for_parts(directory: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until there are that many parts.

    Raises:
        AssertionError: The process that makes them has ended.
        TimeoutError: They are not there within ten minutes.
    """

    def enough() -> bool:
        assert process.poll() is None, f"ended with {process.returncode} at {len(parts(directory))} parts"
        return len(parts(directory)) >= count

    wait_until(enough, seconds=600)


def contents(directory: Path) -> dict[str, bytes]:
    """Return the contents of each part, by name."""
    return {path.name: path.read_bytes() for path in parts(directory)}


def joined(directory: Path, *, header: bool) -> bytes:
    """Return the contents of all parts, joined.

    Args:
        directory: The output directory.
        header: Whether each part begins with a header line, of which the result has one.
    """
    found = list(contents(directory).values())
    if not header:
        return b"".join(found)
    heads = {data.partition(b"\n")[0] for data in found}
    assert len(heads) == 1
    return heads.pop() + b"\n" + b"".join(data.partition(b"\n")[2] for data in found)


def table(*paths: Path) -> Any:
    """Return Parquet files as one Arrow table, without metadata."""
    import pyarrow
    import pyarrow.parquet

    return pyarrow.concat_tables([pyarrow.parquet.read_table(path).replace_schema_metadata(None) for path in paths])
