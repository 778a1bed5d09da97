"""Train several runs in processes that torchrun started: ``-m tests.training.two_processes DATA OUTPUT RUNS [START]``.

RUNS is JSON: for each run, the name of its directory in OUTPUT and its changes to ``small_run``. A run whose name
begins with ``eval-`` calls the model without gradients inside its loss, as back-translation does. With START, a
translation model to start from, the changes are those to ``translation_run``; a run whose name begins with ``bad-``
then cannot translate one of its batches.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.runs import small_run, start_from, translation_run, without_dropout
from xlm.errors import NonFiniteError
from xlm.model.lm import eval_mode
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.training import setup
from xlm.training.config import LoraSettings
from xlm.training.loop import train
from xlm.training.objectives import translation
from xlm.training.objectives.clm import CausalLM, stream_loss
from xlm.training.objectives.translation import Side, back_translate
from xlm.training.processes import TrainableModel, finish_collectives


class EvaluatingCausalLM(CausalLM):
    """Objective that calls the model twice without gradients before each loss, with one more token each time."""

    def loss(self, model: TrainableModel, piece: tuple[Tensor, str]) -> Tensor:
        with torch.no_grad(), eval_mode(model):
            for length in (2, 3):
                assert not stream_loss(model, piece[0][:, :length], 0).requires_grad
        return super().loss(model, piece)


def _checked_back_translate(model: XLMEncoderDecoderModel, *arguments: Any, **options: Any) -> Side:
    """Translate, and check that sharded layers are sharded before and afterwards."""
    layers = [*model.encoder.transformer.layers, *model.decoder.transformer.layers]
    before = [_state(layer) for layer in layers]
    translations = back_translate(model, *arguments, **options)
    assert [_state(layer) for layer in layers] == before
    return translations


class _FailingOnce:
    """Translates, but for one batch in one of the processes."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Side:
        translations = _checked_back_translate(*arguments, **options)
        self._calls += 1
        if self._calls == 2 and dist.get_rank() == 1:
            raise NonFiniteError("the model's scores of the next token are not finite")
        return translations


def _state(layer: nn.Module) -> tuple[list[str], int]:
    """Return the types of a layer's parameters, and the number of its hooks."""
    return [type(parameter).__name__ for parameter in layer.parameters()], len(layer._forward_pre_hooks)


def main(data: Path, output: Path, runs: str, start: str = "") -> None:
    # Joined here, so that all runs share one group: starting the processes costs more than the runs do.
    dist.init_process_group("gloo")
    for name, changes in json.loads(runs):
        if start:
            translation.back_translate = _FailingOnce() if name.startswith("bad-") else _checked_back_translate
            train(translation_run(data, output / name, model=start_from(start), **changes), resume=True)
            continue
        setup._OBJECTIVES["clm"] = EvaluatingCausalLM if name.startswith("eval-") else CausalLM
        model = dataclasses.replace(without_dropout(), freeze=tuple(changes.pop("freeze", ())))
        if start_of_adapters := changes.pop("start_from", None):
            model = start_from(start_of_adapters)
        lora = LoraSettings(**changes.pop("lora", {}))
        train(dataclasses.replace(small_run(data, output / name, model=model, **changes), lora=lora), resume=True)
    finish_collectives()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
