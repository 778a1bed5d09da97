"""``--engine ray`` and the callable classes on a real cluster: Ray's own, of this machine, with two CPUs.

Oracle: the bytes that the local command writes, also where a worker kills itself in the middle.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Invoke
from tests.distributed.test_engine import joined, parts
from xlm.distributed.cluster import ClusterOptions, connected
from xlm.distributed.inputs import input_files
from xlm.distributed.run import Run
from xlm.distributed.work import Lines, Step, TokenizeWork
from xlm.distributed.worker_model import WorkerModel
from xlm.scoring.rows import Row

pytest.importorskip("ray")
pyarrow = pytest.importorskip("pyarrow")
# What Ray warns of while it starts, connects and ends is between it and what it is built on.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this machine, which all tests share."""
    with connected(ClusterOptions(address="local", concurrency=2)) as found:
        yield found


@pytest.fixture
def model(demo_files: Path) -> list[str]:
    return [str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"]


@pytest.mark.usefixtures("ray")
def test_scores_are_those_of_the_local_command(
    invoke: Invoke, model: list[str], corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus[0].parent)  # workers are elsewhere
    command = ["score", *model, *(path.name for path in corpus), "--read-ahead", "20"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    local = invoke(*command)
    torch.set_num_threads(threads)
    output = tmp_path / "out"
    remote = invoke(*command, "--engine", "ray", "--concurrency", "2", "--output-dir", output)
    assert local.exit_code == remote.exit_code == 0, remote.stderr
    assert remote.stdout == ""
    assert joined(output, header=True) == local.stdout_bytes
    assert len(parts(output)) == 7 + 4 + 1 + 3
    parts(output)[4].unlink()
    again = invoke(*command, "--engine", "ray", "--concurrency", "1", "--output-dir", output, "--resume")
    assert again.exit_code == 0, again.stderr
    assert "14 of them from before" in again.stderr
    assert joined(output, header=True) == local.stdout_bytes


@dataclass(frozen=True, kw_only=True)
class DyingWork(TokenizeWork):
    """Tokens, by workers of which the first one that comes to a row kills itself.

    Attributes:
        marker: A file that is made before, so that it happens once.
        row: Number of the row.
    """

    marker: Path
    row: int

    def start(self, identity: Mapping[str, Any]) -> Step:
        return _DyingStep(super().start(identity), self.marker, self.row)


@dataclass(frozen=True)
class _DyingStep:
    step: Step
    marker: Path
    row: int

    def lines(self, window: Sequence[Row]) -> Lines:
        if any(row.number == self.row for row in window) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.step.lines(window)

    def finish(self, lines: Path, target: Path) -> None:
        self.step.finish(lines, target)


@pytest.mark.usefixtures("ray")
def test_a_killed_worker_changes_nothing(
    invoke: Invoke, model: list[str], demo_files: Path, corpus: list[Path], tmp_path: Path
) -> None:
    work = DyingWork(
        opened=WorkerModel(model=model[0], codes=model[2], lang="en"),
        output="ids",
        read_at_once=10,
        marker=tmp_path / "killed",
        row=25,
    )
    run = Run(
        work=work,
        files=input_files([str(corpus[-1])]),
        output=str(tmp_path / "out"),
        cluster=ClusterOptions(concurrency=1),
        windows_per_file=1,
    )
    summary = run(work.identity())
    assert work.marker.exists()
    assert (summary.rows, summary.parts, summary.problems) == (50, 5, 0)
    assert (
        joined(tmp_path / "out", header=False) == invoke("tokenize", *model, "--output", "ids", corpus[-1]).stdout_bytes
    )
    assert not (tmp_path / "out" / "_temporary").exists()


def test_the_classes_go_into_pipelines(ray: Any, model: list[str], corpus: list[Path]) -> None:
    from xlm.distributed import Tokenizer

    texts = corpus[-1].read_text("utf-8").split("\n")
    dataset = ray.data.from_items([{"number": number, "text": text} for number, text in enumerate(texts)])
    options = {"model": model[0], "codes": model[2], "lang": "en"}
    found = dataset.map_batches(
        Tokenizer,
        fn_constructor_kwargs=options,
        batch_format="pyarrow",
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=1),
    ).take_all()
    expected = Tokenizer(**options)(pyarrow.table({"text": texts})).to_pylist()
    assert [row["ids"] for row in sorted(found, key=lambda row: row["number"])] == [row["ids"] for row in expected]
