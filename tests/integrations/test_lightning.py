"""The model in a ``LightningModule``. Oracle: a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.plain_loop import BOUND, STEPS, new_loader, new_model, new_optimiser, train, weights_differ

lightning = pytest.importorskip("lightning")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


def test_three_steps_equal_a_plain_loop(tmp_path: Path) -> None:
    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = new_model()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**batch).loss
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return new_optimiser(self.model)

    module, expected = Module(), new_model()
    train(expected, new_loader())
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, new_loader())
    assert trainer.global_step == STEPS
    assert weights_differ(module.model, expected) < BOUND
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    again = Module.load_from_checkpoint(tmp_path / "module.ckpt", weights_only=True)
    assert weights_differ(again.model, module.model) == 0
