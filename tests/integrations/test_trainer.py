"""The ``Trainer`` of ``transformers`` with the model as it is. Oracle: a plain loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file

from tests.integrations.plain_loop import (
    BOUND,
    LR,
    MAX_NORM,
    STEPS,
    collate,
    examples,
    new_model,
    train,
    weights_differ,
)
from tests.model.small_models import requested

pytest.importorskip("accelerate")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


def arguments(output: Path, **changes: Any) -> transformers.TrainingArguments:
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "optim": "sgd",
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": MAX_NORM,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
    }
    return transformers.TrainingArguments(str(output), **{**settings, **changes})


def test_three_steps_equal_a_plain_loop(tmp_path: Path) -> None:
    # Each batch is the whole data. The Trainer shuffles it, which changes the order of sums only.
    data, model = examples(4), new_model()
    expected: Any = new_model()
    losses = train(expected, [collate(data)] * STEPS, clip=True)
    settings = arguments(tmp_path, save_strategy="steps", save_steps=STEPS, eval_strategy="steps", eval_steps=STEPS)
    trainer = transformers.Trainer(model, settings, train_dataset=data, eval_dataset=examples(6))
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, rel=BOUND)
    assert weights_differ(model, expected) < BOUND
    (evaluated,) = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    batch = collate(examples(6))
    assert evaluated == pytest.approx(requested(expected.eval()(**batch).loss).item(), rel=BOUND)
    more: Any = examples(6)
    predicted = trainer.predict(more).predictions
    assert abs(predicted - expected(**batch).logits.detach().numpy()).max() < 1e-3
    again = new_model()
    again.load_state_dict(load_file(tmp_path / f"checkpoint-{STEPS}" / "model.safetensors"))
    assert weights_differ(again, model) == 0


def test_it_resumes(tmp_path: Path) -> None:
    data, whole, resumed = examples(4), new_model(), new_model()
    transformers.Trainer(whole, arguments(tmp_path / "whole"), train_dataset=data).train()
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    transformers.Trainer(new_model(), arguments(tmp_path, max_steps=1, **saving), train_dataset=data).train()
    transformers.Trainer(resumed, arguments(tmp_path, **saving), train_dataset=data).train(resume_from_checkpoint=True)
    assert weights_differ(resumed, whole) < BOUND


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    data, plain, model = examples(4), new_model(), new_model()
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    option = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    runs = []
    hook = model.transformer.layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
    transformers.Trainer(plain, arguments(tmp_path / "plain"), train_dataset=data).train()
    transformers.Trainer(model, arguments(tmp_path, **{option: True}), train_dataset=data).train()
    hook.remove()
    assert len(runs) == 2 * STEPS  # forward, and again in the backward pass
    assert weights_differ(model, plain) == 0


def test_tensorboard_gets_the_configuration(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = new_model()
    settings = arguments(tmp_path, max_steps=1, report_to="tensorboard")
    transformers.Trainer(model, settings, train_dataset=examples(4)).train()
    logs = next(tmp_path.rglob("events.out.*"))
    events = tensorboard.EventAccumulator(str(logs.parent)).Reload()
    (logged,) = events.Tensors("model_config/text_summary")[0].tensor_proto.string_val
    assert logged.decode() == model.config.to_json_string()
