"""The model in ONNX, computed by onnxruntime. Oracle: the model in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.small_models import random_ids, relative_error, small_model

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")

BOUND = 5e-6  # float32 roundings by other kernels
LENGTHS = (2, 11, 16)


def inputs_of(rows: int, tokens: int, padding: str) -> dict[str, Any]:
    """Return ids, languages and a mask or lengths; the first row has padding."""
    ids = random_ids(rows, tokens, seed=tokens)
    lengths = torch.tensor([tokens // 2, *([tokens] * (rows - 1))])
    mask = torch.arange(tokens) < lengths[:, None]
    padded = {"right": mask.long(), "left": mask.flip(1).long(), "lengths": lengths}[padding]
    return {"input_ids": ids, "langs": ids % 2, "lengths" if padding == "lengths" else "attention_mask": padded}


@pytest.mark.parametrize("padding", ["lengths", "left"])
@torch.no_grad()
def test_exported_it_computes_other_lengths(padding: str, tmp_path: Path) -> None:
    model, example = small_model(seed=1), inputs_of(3, 7, padding)
    rows, tokens = torch.export.Dim("rows", max=64), torch.export.Dim("tokens", max=16)
    shapes = {name: {0: rows} if tensor.dim() == 1 else {0: rows, 1: tokens} for name, tensor in example.items()}
    program: Any = torch.onnx.export(
        model, (), kwargs=example, dynamic_shapes=shapes, output_names=["logits"], dynamo=True, verbose=False
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for length in LENGTHS:
        inputs = inputs_of(4, length, padding)
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
        assert relative_error(torch.from_numpy(logits), model(**inputs).logits) < BOUND
