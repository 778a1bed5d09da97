"""Connection to a cluster, and errors without one.

Oracle: the documented messages; a port that nobody listens on; Ray itself, if installed.
"""

from __future__ import annotations

import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.conftest import Invoke
from xlm.distributed import cluster
from xlm.distributed.cluster import ClusterOptions, connected
from xlm.errors import InputError, XLMError, XLMWarning


@pytest.fixture
def nobody() -> str:
    """An address on this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.usefixtures("_without_ray")
@pytest.mark.parametrize("command", ["score", "tokenize", "generate"])
def test_without_the_extra_it_is_named(invoke: Invoke, demo_files: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "a.txt").write_text("the dog\n")
    model = (demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en")
    result = invoke(command, *model, tmp_path / "a.txt", "--engine", "ray", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert "pip install 'xlm[ray]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_classes_are_there_without_ray() -> None:
    lines = (
        "import sys; sys.modules['ray'] = None",
        "import xlm.distributed as found; print(found.Scorer.__name__)",
        "from xlm.distributed.cluster import ClusterOptions, connected",
        "connected(ClusterOptions()).__enter__()",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout == "Scorer\n"
    assert "DependencyError: Ray Data is not installed" in done.stderr


def test_an_address_that_nobody_listens_on_is_waited_for_and_named(nobody: str) -> None:
    pytest.importorskip("ray")
    started = time.monotonic()
    options = ClusterOptions(address=nobody, connect_timeout=1.2)
    with pytest.raises(XLMError, match="No Ray cluster answers") as error, connected(options):
        pass
    assert error.value.where == nobody
    assert "after 1 s" in str(error.value.found)
    assert time.monotonic() - started < 20  # one second, on a busy machine


@contextmanager
def answering(words: bytes) -> Iterator[str]:
    """Yield an address on this machine where a server sends these bytes to each client, and waits for it to leave."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(words)
            while self.request.recv(1024):
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("words", "found"),
    [(b"", "timed out"), (b"SSH-2.0-OpenSSH_9.6\r\n", "is not Ray"), (b"HTTP/1.1 400 No\r\n", "is not Ray")],
)
def test_somebody_else_who_answers_is_waited_for_no_longer(words: bytes, found: str) -> None:
    pytest.importorskip("ray")
    started = time.monotonic()
    with answering(words) as address:
        options = ClusterOptions(address=address, connect_timeout=0.7)
        with pytest.raises(XLMError, match="No Ray cluster answers") as error, connected(options):
            pass
    assert found in str(error.value.found)
    assert time.monotonic() - started < 20


SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the first frame of a server, RFC 9113, section 3.4


@pytest.mark.parametrize(
    ("reason", "found"), [(SystemExit(15), "Ray gave up"), (RuntimeError("Version mismatch: 2.9"), "Version mismatch")]
)
def test_a_cluster_that_cannot_be_joined_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, reason: BaseException, found: str
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        raise reason

    monkeypatch.setattr(ray, "init", init)
    with answering(SETTINGS) as address:
        options = ClusterOptions(address=address, connect_timeout=5)
        with pytest.raises(XLMError, match="This process cannot join the Ray cluster") as error, connected(options):
            pass
    assert found in str(error.value.found)
    assert error.value.where == address


@pytest.mark.parametrize("of_environment", [True, False])
def test_rays_server_for_clients_is_refused(monkeypatch: pytest.MonkeyPatch, of_environment: bool) -> None:
    pytest.importorskip("ray")
    address = "ray://127.0.0.1:10001"
    if of_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    options = ClusterOptions(address=None if of_environment else address)
    with pytest.raises(XLMError, match="Ray Client addresses") as error, connected(options):
        pass
    assert error.value.where == address
    assert "job submit" in str(error.value)


class FakeRay(SimpleNamespace):
    """Stand-in for Ray with one machine, which keeps its settings."""

    def __init__(self, **resources: float) -> None:
        super().__init__(started=[], is_initialized=lambda: False, shutdown=lambda: None)
        self.init = lambda **settings: self.started.append(settings)
        self.nodes = lambda: [
            {"Alive": True, "Resources": resources},
            {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}},
        ]


@pytest.mark.parametrize("options", [ClusterOptions(threads_per_worker=3), ClusterOptions(gpus_per_worker=1)])
def test_a_worker_that_there_is_no_room_for_is_refused_here_and_waited_for_elsewhere(
    monkeypatch: pytest.MonkeyPatch, options: ClusterOptions
) -> None:
    monkeypatch.setattr(cluster, "import_ray", lambda: FakeRay(CPU=2.0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(XLMError, match="no room for a worker") as error, connected(options):
        pass
    assert error.value.found == "at most 2 CPUs, 0 GPUs"
    with (
        answering(SETTINGS) as address,
        pytest.warns(XLMWarning, match="no machine of the cluster has room"),
        connected(replace(options, address=address)),
    ):
        pass
    monkeypatch.setattr(cluster, "import_ray", lambda: FakeRay(CPU=3.0, GPU=1.0))
    with connected(options):
        pass


@pytest.mark.parametrize(
    ("options", "cpus"),
    [(ClusterOptions(), None), (ClusterOptions(threads_per_worker=2), None), (ClusterOptions(concurrency=3), 3)],
)
def test_ray_counts_the_processors_unless_workers_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: ClusterOptions, cpus: int | None
) -> None:
    ray = FakeRay(CPU=2.0)
    monkeypatch.setattr(cluster, "import_ray", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connected(options):
        pass
    assert [settings.get("num_cpus") for settings in ray.started] == [cpus]


@pytest.mark.parametrize("gpus", [1.5, 2.25])
def test_a_worker_has_whole_gpus_or_a_part_of_one(gpus: float) -> None:
    with pytest.raises(InputError, match="neither whole nor less than 1"):
        ClusterOptions(gpus_per_worker=gpus)
    assert [ClusterOptions(gpus_per_worker=given).gpus_per_worker for given in (0, 0.5, 1, 2.0)] == [0, 0.5, 1, 2]


def test_an_address_of_the_environment_is_named_too(
    invoke: Invoke, demo_files: Path, tmp_path: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    (tmp_path / "a.txt").write_text("the dog\n")
    model = (demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en")
    ray = ("--engine", "ray", "--output-dir", tmp_path / "out", "--connect-timeout", "0.1")
    result = invoke("tokenize", *model, tmp_path / "a.txt", *ray)
    assert result.exit_code == 1
    assert nobody in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_cluster_of_this_machine_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Exception("The current node timed out during startup")  # the class that Ray raises

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(XLMError, match="could not start") as error, connected(ClusterOptions()):
        pass
    assert "timed out during startup" in str(error.value.found)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("address", ["nowhere", "host:port"])
def test_what_is_no_address_is_said(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(XLMError, match="No Ray cluster answers") as error, connected(ClusterOptions(address=address)):
        pass
    assert "not HOST:PORT" in str(error.value.found)


@pytest.mark.parametrize(
    ("options", "resources", "workers"),
    [
        (ClusterOptions(), {"CPU": 8.0}, 8),
        (ClusterOptions(threads_per_worker=3), {"CPU": 8.0}, 2),
        (ClusterOptions(threads_per_worker=3), {"CPU": 2.0}, 1),
        (ClusterOptions(gpus_per_worker=0.5), {"CPU": 64.0, "GPU": 4.0}, 8),
        (ClusterOptions(gpus_per_worker=1), {"CPU": 2.0, "GPU": 4.0}, 2),
        (ClusterOptions(concurrency=5), {"CPU": 2.0}, 5),
    ],
)
def test_as_many_workers_as_there_is_room_for(
    options: ClusterOptions, resources: dict[str, float], workers: int
) -> None:
    assert options.workers(resources) == workers


def test_signals_stay_ours() -> None:
    from xlm.distributed.cluster import _own_signals

    before = signal.getsignal(signal.SIGTERM)
    with _own_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before
