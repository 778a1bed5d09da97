"""A plain training loop, which the loops of other libraries must equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tests.model.small_models import random_ids, requested, small_model
from xlm import XLMWithLMHeadModel

LR = 0.1
STEPS = 3
MAX_NORM = 1.0

# Both loops take the same steps; their sums differ in order only.
BOUND = 1e-5


def new_model() -> XLMWithLMHeadModel:
    """Return a small model without dropout, so that training does not depend on random numbers."""
    return small_model(seed=1, dropout=0.0, attention_dropout=0.0).train()


def examples(count: int) -> list[dict[str, Any]]:
    """Return rows with the arguments of ``forward``; every second row is German and has padding."""
    rows = []
    for i, ids in enumerate(random_ids(count, 7)):
        mask = torch.arange(7) < (7 if i % 2 else 4)
        rows.append(
            {"input_ids": ids, "labels": ids, "attention_mask": mask.long(), "langs": torch.full_like(ids, i % 2)}
        )
    return rows


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of examples."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def new_loader() -> Any:
    """Return a loader of ``STEPS`` batches of four examples."""
    data: Any = examples(4 * STEPS)
    return torch.utils.data.DataLoader(data, batch_size=4, collate_fn=collate)


def new_optimiser(model: torch.nn.Module) -> torch.optim.SGD:
    """Return plain gradient descent. Adam would amplify the rounding of gradients that are zero, as of key biases."""
    return torch.optim.SGD(model.parameters(), lr=LR)


def train(model: Any, batches: Iterable[dict[str, Any]], *, clip: bool = False) -> list[float]:
    """Take one step a batch, and return the losses."""
    optimiser = new_optimiser(model)
    losses = []
    for batch in batches:
        loss = requested(model(**batch).loss)
        torch.autograd.backward(loss)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def weights_differ(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Return the largest difference between two models' weights."""
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    return max(float((tensor - expected[name]).abs().max()) for name, tensor in ours.state_dict().items())
