"""Program that ``test_ray.py`` runs as a separate process, since Ray keeps files and processes until its process ends.

It connects to a cluster of this machine, as the commands do, and runs what the tests check.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xlm.cli import xlm
from xlm.corpus.rows import Row
from xlm.corpus.tables import OutputLines
from xlm.distributed.cluster import ClusterOptions, connected, wait_for
from xlm.distributed.output import Record
from xlm.distributed.run import Run
from xlm.distributed.storage import input_files
from xlm.distributed.tasks import Compute, TokenizeTask, WorkerModel


@dataclass(frozen=True, kw_only=True)
class DyingTask(TokenizeTask):
    """Ids, by workers of which the first to reach a row kills itself.

    Attributes:
        marker: A file that is created first, so that only one worker kills itself.
        row: Number of the row.
    """

    marker: Path
    row: int

    def start(self, identity: Mapping[str, Any]) -> Compute:
        compute = super().start(identity)

        def compute_or_die(window: Sequence[Row], file: int) -> OutputLines:
            if any(row.number == self.row for row in window) and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return compute(window, file)

        return compute_or_die


def tokenized_by_dying_workers(opened: Mapping[str, str], file: Path, output: Path) -> list[Record]:
    """Write the ids of a file's lines, ten lines per part."""
    task = DyingTask(
        model=WorkerModel(model=opened["model"], codes=opened["codes"], lang=opened["lang"]),
        output="ids",
        read_at_once=10,
        marker=output.with_name("killed"),
        row=25,
    )
    cluster = ClusterOptions(concurrency=1)
    run = Run(task=task, files=input_files([str(file)]), output=str(output), cluster=cluster, windows_per_file=1)
    return run(task.identity())


def in_a_pipeline(ray: Any, opened: Mapping[str, str], texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts, by ``Tokenizer`` in a pipeline."""
    from xlm.distributed import Tokenizer

    found = (
        ray.data.from_items([{"number": number, "text": text} for number, text in enumerate(texts)])
        .map_batches(
            Tokenizer,
            fn_constructor_kwargs=dict(opened),
            batch_format="pyarrow",
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .take_all()
    )
    return [[int(index) for index in row["ids"]] for row in sorted(found, key=lambda row: int(row["number"]))]


def main(asked: Mapping[str, Any]) -> None:
    """Run everything, and write what the tests need to know beside the output."""
    directory = Path(asked["directory"])
    corpus = [Path(path) for path in asked["corpus"]]
    os.chdir(corpus[0].parent)
    with connected(ClusterOptions(address="local", concurrency=2)) as ray:
        wait_for(ray.get_runtime_context().gcs_address, 60)  # Ray's answer is the expected one
        command = [*asked["command"], "--engine", "ray", "--output-dir", str(directory / "scores")]
        xlm.main([*command, "--concurrency", "2"], standalone_mode=False)
        (directory / "scores" / "part-0000000-0000004.tsv").unlink()
        xlm.main([*command, "--concurrency", "1", "--resume"], standalone_mode=False)
        records = tokenized_by_dying_workers(asked["opened"], corpus[-1], directory / "ids")
        texts = corpus[-1].read_text("utf-8").split("\n")
        told = {"records": list(map(asdict, records)), "ids": in_a_pipeline(ray, asked["opened"], texts)}
    (directory / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
