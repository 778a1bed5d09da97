"""A Ray cluster of several node processes on this machine, for the tests and ``scripts/measure_ray.py``.

A separate process owns the nodes and ends them when its standard input closes, even if the process that started it was
killed. A directory, named in the environment of all processes of a cluster and its drivers, identifies the cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_OBJECT_STORE = 100 << 20
_MARK = "RAY_TMPDIR"


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A process of a cluster, or one that works with it.

    Attributes:
        pid: Process id.
        parent: Process id of the parent.
        name: ``raylet``, ``gcs_server``, what Ray calls a worker (``ray::…``), or the end of the command.
    """

    pid: int
    parent: int
    name: str

    @property
    def at_work(self) -> bool:
        """Whether the process is a worker of a dataset."""
        return self.name.startswith("ray::MapWorker")

    def memory(self) -> int:
        """Return the proportional set size (PSS) in bytes without the object store; 0 for a process that has ended.

        The object store has a fixed size, but its pages only count once they are used.
        """
        with suppress(OSError):
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines[1:]}
            return sizes["Pss"] - sizes.get("Pss_Shmem", 0)
        return 0

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def processes_of(directory: str) -> list[Process]:
    """Return the processes of the cluster that the directory identifies."""
    mark = f"{_MARK}={directory}".encode()
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        with suppress(OSError):
            if mark not in (path / "environ").read_bytes().split(b"\0"):
                continue
            stat = (path / "stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
            command = (path / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
            if stat[0] != "Z":
                found.append(Process(pid=int(path.name), parent=int(stat[1]), name=_name(command)))
    return found


def _name(command: list[str]) -> str:
    first = Path(command[0]).name
    if command[0].startswith("ray::") or not first.startswith("python"):
        return command[0] if command[0].startswith("ray::") else first
    module = command[command.index("-m") + 1] if "-m" in command else ""
    return module or next((Path(part).name for part in command[1:] if part.endswith(".py")), first)


def wait_until(found: Callable[[], Any], *, seconds: float = 120, every: float = 0.02) -> Any:
    """Wait until a function returns a true value, and return it.

    Raises:
        TimeoutError: It did not within the given time.
    """
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {seconds:.0f} s")
        time.sleep(every)
    return value


class LocalCluster:
    """A running cluster; as a context manager, it ends with the block.

    Args:
        nodes: Number of nodes, including the head.
        cpus: Number of CPUs that each node reports.

    Attributes:
        address: Address of the head.
        environment: Environment for processes that use the cluster.
    """

    def __init__(self, *, nodes: int = 3, cpus: int = 1) -> None:
        # It holds sockets, whose paths have at most 107 bytes.
        self._directory = tempfile.mkdtemp(prefix="xlm-ray-", dir="/tmp")
        self.environment = {
            **os.environ,
            _MARK: self._directory,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's default of 15 would starve the workers
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.local_cluster", str(nodes), str(cpus)],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started = self._answer()
        self.address: str = started["address"]
        self._raylets: list[int] = started["raylets"]

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.close()
        if error is None and left:
            raise AssertionError(f"the cluster left processes behind: {left}")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError("the cluster did not start")
        return dict(json.loads(line))

    def processes(self) -> list[Process]:
        """Return all processes of the cluster and of commands that use it."""
        return processes_of(self._directory)

    def workers(self) -> list[Process]:
        """Return the workers of datasets."""
        return [process for process in self.processes() if process.at_work]

    def remove_node(self) -> None:
        """Kill all processes of a node that has a worker and is not the head.

        Raises:
            TimeoutError: No such node appears within two minutes.
        """
        others = self._raylets[1:]
        worker = wait_until(lambda: [each for each in self.workers() if each.parent in others])[0]
        assert self._process.stdin is not None
        self._process.stdin.write(f"{worker.parent}\n")
        self._process.stdin.flush()
        self._answer()
        self._raylets.remove(worker.parent)

    def close(self) -> list[Process]:
        """End the cluster, and return the processes that had to be killed for it, ideally none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(TimeoutError):
            wait_until(lambda: not self.processes(), seconds=30, every=0.1)
        left = self.processes()
        for process in left:
            process.kill()
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        return left


def main(nodes: int, cpus: int) -> None:
    """Start the nodes; remove one for each raylet id on standard input, and all when it closes."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**size)
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.list_all_nodes()}
        _say({"address": cluster.address, "raylets": list(raylets)})
        for line in sys.stdin:
            cluster.remove_node(raylets.pop(int(line)), allow_graceful=False)
            _say({})
    finally:
        cluster.shutdown()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
