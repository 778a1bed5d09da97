"""Train several runs in processes that torchrun started: ``-m tests.training.two_processes DATA OUTPUT RUNS [START]``.

RUNS is JSON: for each run, the name of its directory in OUTPUT and its changes to ``small_run``. A run whose name
begins with ``eval-`` calls the model without gradients inside its loss, as back-translation does. With START, a
translation model to start from, the changes are those to ``translation_run``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tests.training.runs import small_run, start_from, translation_run, without_dropout
from xlm.model.lm import XLMWithLMHeadModel, eval_mode
from xlm.training import setup
from xlm.training.loop import train
from xlm.training.objectives.clm import CausalLM, stream_loss


class EvaluatingCausalLM(CausalLM):
    """Objective that calls the model twice without gradients before each loss, with one more token each time."""

    def loss(self, model: XLMWithLMHeadModel, piece: tuple[Tensor, str]) -> Tensor:
        with torch.no_grad(), eval_mode(model):
            for length in (2, 3):
                assert not stream_loss(model, piece[0][:, :length], 0).requires_grad
        return super().loss(model, piece)


def main(data: Path, output: Path, runs: str, start: str = "") -> None:
    # Joined here, so that all runs share one group: starting the processes costs more than the runs do.
    dist.init_process_group("gloo")
    for name, changes in json.loads(runs):
        if start:
            train(translation_run(data, output / name, model=start_from(start), **changes), resume=True)
            continue
        setup._OBJECTIVES["clm"] = EvaluatingCausalLM if name.startswith("eval-") else CausalLM
        train(small_run(data, output / name, model=without_dropout(), **changes), resume=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
