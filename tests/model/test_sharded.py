"""Models on the meta device, sharded by FSDP2 in two processes, given weights, trained and saved; and DDP.

Oracle: the saved model in one process; the distribution that weights are drawn from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.model.small_models import random_ids
from xlm import XLMEncoderDecoderModel, XLMModel, XLMWithLMHeadModel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.model.two_sharded", str(directory)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-4000:]
    return directory


@pytest.fixture(scope="module")
def results(run: Path) -> Mapping[str, Any]:
    contents: dict[str, Any] = json.loads((run / "results.json").read_text("utf-8"))
    return contents


@pytest.mark.parametrize("name", ["lm", "sinusoidal", "translation"])
def test_new_weights(name: str, results: Mapping[str, Any]) -> None:
    assert results[f"{name}.finite"]
    assert results[f"{name}.std"] == pytest.approx(24**-0.5, rel=0.1)  # 1,440 draws
    assert results[f"{name}.padding"] == 0


def test_loss_and_gradients_are_those_of_one_process(run: Path, results: Mapping[str, Any]) -> None:
    model, ids = XLMWithLMHeadModel.from_pretrained(run / "lm"), random_ids(4, 6)
    loss = model(ids, langs="en", labels=ids).loss
    assert loss is not None
    assert results["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.autograd.backward(loss)
    expected = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert results["gradients"].keys() == expected.keys()
    for name, norm in expected.items():
        assert results["gradients"][name] == pytest.approx(norm, rel=1e-4, abs=1e-6), name


def test_saved_models_open(run: Path) -> None:
    body = XLMModel.from_pretrained(run / "sinusoidal")
    assert torch.equal(
        body.transformer.embeddings.position.weight, XLMModel(body.config).transformer.embeddings.position.weight
    )
    XLMEncoderDecoderModel.from_pretrained(run / "translation")


def test_both_processes_raise_what_the_writing_one_raises(run: Path, results: Mapping[str, Any]) -> None:
    assert results["errors"] == [str(run / "file")] * 2


def test_no_process_waits_for_one_that_fails(results: Mapping[str, Any]) -> None:
    first, second = results["other errors"]
    assert first == "MemoryError: none left"
    assert second.startswith("WriteError: The first process could not save the model")
    assert "MemoryError: none left" in second


def test_no_parameter_is_unused(results: Mapping[str, Any]) -> None:
    assert results["ddp"]
