"""Shard models with FSDP2 in two processes, train and save them: ``-m tests.model.two_sharded DIR`` by torchrun.

Each process writes nothing but what ``save_pretrained`` writes; the first one also writes ``results.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.model.small_models import random_ids, small_config
from xlm import XLMEncoderDecoderModel, XLMModel, XLMWithLMHeadModel
from xlm.errors import WriteError
from xlm.model.sharded import gather
from xlm.training.processes import finish_collectives


def sharded(model: Any) -> Any:
    """Shard the layers, then the rest, then give the model memory and weights."""
    for layer in (layer for module in model.modules() if hasattr(module, "layers") for layer in module.layers):
        fully_shard(layer)
    fully_shard(model)
    model.to_empty(device="cpu")
    model.reset_parameters()
    return model


def on_meta(cls: Any, **changes: Any) -> Any:
    with torch.device("meta"):
        return cls(small_config(**changes))


def seen_by_both(value: object) -> list[object]:
    """Return what the first and the second process pass."""
    values: list[object] = [None, None]
    dist.all_gather_object(values, value)
    return values


class Classifier(nn.Module):
    """A module with the network at its bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.body = XLMModel(small_config(dropout=0.0, attention_dropout=0.0))
        self.classify = nn.Linear(24, 2)

    def forward(self, ids: torch.Tensor) -> Any:
        output = self.body(ids, langs="en")
        return output, self.classify(output.last_hidden_state.mean(1))


def main(directory: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results: dict[str, Any] = {}
    ids = random_ids(4, 6)
    for name, kind, changes in (
        ("lm", XLMWithLMHeadModel, {"dropout": 0.0, "attention_dropout": 0.0}),
        ("sinusoidal", XLMModel, {"sinusoidal_embeddings": True}),
        ("translation", XLMEncoderDecoderModel, {}),
    ):
        model = sharded(on_meta(kind, **changes))
        weights = {key: gather(weight.detach()) for key, weight in model.named_parameters()}
        words = next(weight for key, weight in weights.items() if key.endswith("word.weight"))
        results[f"{name}.finite"] = all(bool(weight.isfinite().all()) for weight in weights.values())
        results[f"{name}.std"] = float(words.std())
        results[f"{name}.padding"] = float(words[2].abs().max())
        model.eval()
        model.save_pretrained(directory / name)
        if name == "lm":
            # Gradients reach the embeddings, which are gathered for the backward pass, only through a pytree.
            model.train()
            loss = model(ids[rank * 2 : rank * 2 + 2], langs="en", labels=ids[rank * 2 : rank * 2 + 2]).loss
            loss.backward()
            gradients = {key: gather(p.grad) for key, p in model.named_parameters() if p.grad is not None}
            total = loss.detach().clone()
            dist.all_reduce(total)
            results["loss"] = float(total) / 2
            results["gradients"] = {key: float(gradient.norm()) for key, gradient in gradients.items()}
            (directory / "file").write_text("")
            dist.barrier()
            try:
                model.save_pretrained(directory / "file")
            except WriteError as error:
                results["error"] = str(error.where)
            results["errors"] = seen_by_both(results.get("error"))
            try:
                with patch("xlm.checkpoint.save.write_layout", side_effect=MemoryError("none left")):
                    model.save_pretrained(directory / "memory")
            except (MemoryError, WriteError) as error:
                results["error"] = f"{type(error).__name__}: {error}"
            results["other errors"] = seen_by_both(results["error"])
    torch.manual_seed(0)
    network = DistributedDataParallel(Classifier())
    for _ in range(2):  # the second step would refuse parameters unused in the first
        _, scores = network(ids[rank * 2 : rank * 2 + 2])
        scores.square().mean().backward()
    results["ddp"] = all(p.grad is not None for p in network.parameters())
    if rank == 0:
        (directory / "results.json").write_text(json.dumps(results))
    finish_collectives()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
