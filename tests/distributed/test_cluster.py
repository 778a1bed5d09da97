"""Finding a cluster, and what is said when there is none.

Oracle: the messages that are promised; a port that nobody listens on; for what is started, Ray itself, where installed.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from xlm.distributed.cluster import ClusterOptions, connected
from xlm.errors import DependencyError, XLMError


@pytest.fixture
def nobody() -> str:
    """An address of this machine that nobody listens on."""
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


@pytest.mark.usefixtures("_without_ray")
def test_the_classes_are_there_without_ray() -> None:
    import xlm.distributed

    assert xlm.distributed.Scorer.__name__ == "Scorer"
    with pytest.raises(DependencyError, match="not installed"), connected(ClusterOptions()):
        pass


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_that_nobody_listens_on_is_waited_for_and_named(nobody: str, prefix: str) -> None:
    pytest.importorskip("ray")
    started = time.monotonic()
    options = ClusterOptions(address=prefix + nobody, connect_seconds=1.2)
    with pytest.raises(XLMError, match="no cluster of Ray") as error, connected(options):
        pass
    assert error.value.where == prefix + nobody
    assert "after 1 s" in str(error.value.found)
    assert time.monotonic() - started < 20  # a second of waiting, on a machine that is busy


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
        raise Exception("The current node timed out during startup")  # the very class that Ray raises

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(XLMError, match="could not be started") as error, connected(ClusterOptions()):
        pass
    assert "timed out during startup" in str(error.value.found)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("address", ["nowhere", "host:port"])
def test_what_is_no_address_is_said(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(XLMError, match="no cluster of Ray") as error, connected(ClusterOptions(address=address)):
        pass
    assert "it is not HOST:PORT" in str(error.value.found)


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
