"""Fixtures of the distributed commands: a corpus with every kind of row, and an engine without a cluster."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.cli.conftest import demo_files, invoke, translator  # noqa: F401 (fixtures)
from xlm.distributed import cluster, run
from xlm.distributed.pipeline import PartWriter, read_shards, table_of

WORDS = ("the", "small", "dog", "is", "sleeping", "on", "grass.", "Xylophon", "ü", "A", "cat,", "\t")

Loses = Callable[[int], bool]


def _lines(count: int, *, seed: int, longest: int = 40) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randrange(longest))) for _ in range(count)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of several formats with lines of all lengths, some of them unreadable; one file is empty."""
    directory = tmp_path_factory.mktemp("corpus")
    plain = [line.encode() for line in _lines(130, seed=1)]
    plain[60] = b" ".join(plain)  # longer than the model's positions
    plain[17] = plain[100] = b"\xff"
    (directory / "a.txt").write_bytes(b"\n".join(plain))
    rows = [json.dumps({"text": line}) for line in _lines(75, seed=2)]
    rows[3], rows[50] = "{", json.dumps({"other": 1})
    with gzip.open(directory / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    (directory / "c.txt").write_bytes(b"")
    (directory / "d.txt").write_text("\n".join(_lines(50, seed=3)), encoding="utf-8")
    return sorted(directory.iterdir())


def poison(network: torch.nn.Module) -> None:
    """Make a model return NaN from the 21st position on."""
    with torch.no_grad():
        network.get_parameter("transformer.embeddings.position.weight")[20:] = torch.nan


@pytest.fixture
def model(demo_files: Path) -> list[str]:  # noqa: F811 (a fixture)
    """Command-line arguments for a model."""
    return [str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"]


class ClusterError(Exception):
    """Stand-in for Ray's errors."""


class Engine:
    """Stand-in for a cluster, which processes shards one by one in this process.

    Attributes:
        done: Number of processed shards.
        loses: Returns whether the result of the n-th shard, from 1, is lost; called when the shard is done.
        before_reading: Called before the files are read.
    """

    def __init__(self) -> None:
        self.done = 0
        self.loses: Loses = lambda number: False
        self.before_reading: Callable[[], object] = lambda: None

    def dataset(self, _ray: Any, pending: Any, *, reading: Any, writing: Any, **_: object) -> Any:
        """Replace ``build_dataset``."""

        def iter_batches(**_: object) -> Iterator[Any]:
            self.before_reading()
            writer = PartWriter(**writing)
            for file in pending:
                for shard in read_shards(table_of(file), **reading):
                    self.done += 1
                    if not self.loses(self.done):
                        yield writer(shard)

        return SimpleNamespace(context=SimpleNamespace(), iter_batches=iter_batches)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Make ``--engine ray`` work in this process."""
    found = Engine()

    @contextmanager
    def connected(_: object) -> Iterator[Any]:
        exceptions = SimpleNamespace(RayError=ClusterError)
        yield SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}, exceptions=exceptions)

    monkeypatch.setattr(cluster, "import_ray", lambda: None)
    monkeypatch.setattr(run, "connected", connected)
    monkeypatch.setattr(run, "build_dataset", found.dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    yield found
    torch.set_num_threads(threads)
