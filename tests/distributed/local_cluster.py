"""A cluster of Ray on this machine, of several node processes, for the tests and ``scripts/measure_ray.py``.

The nodes belong to a process of their own, which ends them when its standard input ends: also when whoever started it
was killed. All processes of a cluster, drivers too, are told apart by a directory that their environment names.
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
        pid: Its number.
        parent: That of the process that started it.
        name: ``raylet``, ``gcs_server``, what Ray calls a worker (``ray::…``), or the end of the command.
    """

    pid: int
    parent: int
    name: str

    @property
    def at_work(self) -> bool:
        """Whether it is a worker that computes for a dataset."""
        return self.name.startswith("ray::MapWorker")

    def memory(self) -> int:
        """Bytes that it takes up, its part of what is shared (PSS), but for the object store; 0 when it has ended.

        The store has a size that is set; its pages count once they have been used.
        """
        with suppress(OSError):
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines[1:]}
            return sizes["Pss"] - sizes.get("Pss_Shmem", 0)
        return 0

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def processes_of(directory: str) -> list[Process]:
    """The processes of the cluster that a directory belongs to."""
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
    """What a function returns as soon as that is true.

    Raises:
        TimeoutError: It was not, for so long.
    """
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {seconds:.0f} s")
        time.sleep(every)
    return value


class LocalCluster:
    """A running cluster; as a context it ends with the block.

    Args:
        nodes: How many nodes, the head included.
        cpus: CPUs that each says it has.

    Attributes:
        address: Of the head.
        environment: For processes that are to work with it.
    """

    def __init__(self, *, nodes: int = 3, cpus: int = 1) -> None:
        # Sockets are below it, whose paths may be no longer than 107 bytes.
        self._directory = tempfile.mkdtemp(prefix="xlm-ray-", dir="/tmp")
        self.environment = {
            **os.environ,
            _MARK: self._directory,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # of 15, which starves workers beside anything else that computes
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
        """All processes of the cluster, and of commands that work with it."""
        return processes_of(self._directory)

    def workers(self) -> list[Process]:
        """Those that compute for a dataset."""
        return [process for process in self.processes() if process.at_work]

    def remove_node(self) -> None:
        """Kills all processes of a node, not the head, that a worker is at work on.

        Raises:
            TimeoutError: There is none such for two minutes.
        """
        others = self._raylets[1:]
        worker = wait_until(lambda: [each for each in self.workers() if each.parent in others])[0]
        assert self._process.stdin is not None
        self._process.stdin.write(f"{worker.parent}\n")
        self._process.stdin.flush()
        self._answer()
        self._raylets.remove(worker.parent)

    def close(self) -> list[Process]:
        """Ends the cluster and returns the processes that had to be killed for it; none when all went well."""
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
    """Holds the nodes; removes one for each number of a raylet on standard input, all when that ends."""
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
