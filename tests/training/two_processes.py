"""Runs one after the other in processes that torchrun started: ``-m tests.training.two_processes DATA OUTPUT RUNS``.

RUNS is JSON: name of a run's directory in OUTPUT and changes of ``small_run``, for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tests.training.runs import small_run, without_dropout
from xlm.training.loop import train


def main(data: Path, output: Path, runs: str) -> None:
    # Joined here, so that all runs share one group: starting the processes costs more than the runs do.
    dist.init_process_group("gloo")
    for name, changes in json.loads(runs):
        train(small_run(data, output / name, model=without_dropout(), **changes), resume=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
