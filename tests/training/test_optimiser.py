"""The optimiser and its schedule.

Oracle: 20 updates recorded from the original (losses, gradient norms, learning rates, final weights); the formulas
written out number by number in float64.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.config import SCHEDULES
from xlm.training.objectives.clm import stream_loss
from xlm.training.optimiser import START, OriginalAdam, learning_rate


def test_twenty_updates_of_the_original(reference: Path) -> None:
    recorded = json.loads((reference / "checkpoints/plain.training_run.json").read_text("utf-8"))
    tensors = load_file(reference / "checkpoints/plain.training_run.safetensors")
    model = XLMWithLMHeadModel.from_pretrained(reference / "checkpoints/plain.pth")  # in evaluation mode: no dropout
    optimiser = OriginalAdam(model.parameters(), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    losses, norms, rates = [], [], []
    for update, (input_ids, language) in enumerate(zip(tensors["input_ids"], tensors["lang_id"], strict=True)):
        rate = learning_rate(update, schedule="inverse_sqrt", lr=0.005, warmup_steps=8, max_steps=20)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        loss = stream_loss(model, input_ids, int(language))
        torch.autograd.backward(loss)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 5.0)))
        optimiser.step()
        losses.append(float(loss.detach()))
        rates.append(rate)
    assert len(losses) == 20
    assert rates == pytest.approx(recorded["lrs"], rel=1e-12)
    # The bound is 1e-4; float32 and another order of sums leave 3e-7.
    assert losses == pytest.approx(recorded["losses"], rel=2e-6)
    assert norms == pytest.approx(recorded["grad_norms"], rel=2e-6)
    errors = {}
    for name, found in model.state_dict().items():
        expected = tensors[f"final.{ORIGINAL.theirs(name)}"]
        errors[name] = float((found - expected).norm() / expected.norm())
    # A key bias adds the same number to all of a query's scores, so its true gradient is zero: what Adam sees there is
    # rounding noise, which it magnifies. The others agree ten times as well.
    noise = {name: error for name, error in errors.items() if name.endswith("attention.key.bias")}
    assert len(noise) == 2
    assert max(noise.values()) < 1e-4
    assert max(error for name, error in errors.items() if name not in noise) < 1e-5


def test_one_number_by_hand() -> None:
    lr, beta1, beta2, eps, decay = 0.1, 0.9, 0.98, 1e-2, 0.05
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimiser = OriginalAdam([weight], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    p, m, v = 0.7, 0.0, 0.0
    for t, g in enumerate((0.3, -0.002, 0.0, 4.0), start=1):
        weight.grad = torch.tensor([g], dtype=torch.float64)
        optimiser.step()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        p -= decay * lr * p
        p -= lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (math.sqrt(v) + eps)
        assert float(weight.detach()) == pytest.approx(p, rel=1e-12)


def test_it_is_not_torchs_adamw() -> None:
    """The two add eps at different places, which shows in the first updates."""
    ours, theirs = (nn.Parameter(torch.ones(1)) for _ in range(2))
    one = OriginalAdam([ours], lr=0.1, eps=1e-2, weight_decay=0.1)
    other = torch.optim.AdamW([theirs], lr=0.1, eps=1e-2, weight_decay=0.1)
    ours.grad = theirs.grad = torch.full((1,), 1e-2)
    one.step()
    other.step()
    assert abs(float(ours.detach()) - float(theirs.detach())) > 1e-2


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimiser = OriginalAdam([used, unused], lr=0.1, weight_decay=0.5)
    used.grad = torch.ones(2)
    optimiser.step()
    assert torch.equal(unused.detach(), torch.ones(2))
    assert not torch.equal(used.detach(), torch.ones(2))
    used.grad = unused.grad = torch.ones(2)
    optimiser.step()  # now they are of different age
    first = nn.Parameter(torch.ones(2))
    fresh = OriginalAdam([first], lr=0.1, weight_decay=0.5)
    first.grad = torch.ones(2)
    fresh.step()
    assert torch.equal(unused.detach(), first.detach())


def test_moments_of_half_precision_weights_are_float32() -> None:
    def train(dtype: torch.dtype) -> Tensor:
        weight = nn.Parameter(torch.ones(3, dtype=dtype))
        optimiser = OriginalAdam([weight], lr=0.1, betas=(0.9, 0.98))
        weight.grad = torch.full((3,), 1e-4, dtype=dtype)
        optimiser.step()
        assert optimiser.state[weight]["exp_avg_sq"].dtype == torch.float32
        return weight.detach().float()

    # bfloat16 keeps 8 bits.
    torch.testing.assert_close(train(torch.bfloat16), train(torch.float32), rtol=2**-7, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule: str) -> None:
    rates = [learning_rate(n, schedule=schedule, lr=1e-3, warmup_steps=10, max_steps=100) for n in range(101)]
    assert rates[0] == START
    assert rates[10] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-3)
    rises = [after - before for before, after in itertools.pairwise(rates[:11])]
    assert rises == pytest.approx([(1e-3 - START) / 10] * 10)
    end = {"inverse_sqrt": 1e-3 * math.sqrt(0.1), "cosine": 1e-4, "constant": 1e-3}[schedule]
    assert rates[100] == pytest.approx(end)
    assert learning_rate(0, schedule="constant", lr=0.5, warmup_steps=0, max_steps=1) == 0.5
