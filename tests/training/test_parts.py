"""Frozen parts, adapters, parts of a checkpoint, and settings that change in the course of a run.

Oracle: the weights before the run, a plain loop of steps with torch's own loss, peft's own merge, the uninterrupted
run, and what the messages must say, written out here.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import (
    equal,
    events,
    small_run,
    small_tokenizer,
    start_from,
    train_with_cuts,
    translation_run,
    translation_weights,
    updates,
    weights,
)
from tests.waiting import at_most
from xlm.cli.train import command
from xlm.errors import ConfigError
from xlm.model.config import XLMConfig
from xlm.model.initialisation import sinusoidal_positions
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.config import LoraSettings, ModelSettings, TrainConfig
from xlm.training.loop import train
from xlm.training.lora import add_adapters

EMBEDDINGS = ("transformer.embeddings.*",)


def with_lora(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, lora=LoraSettings(**{"rank": 2, "targets": ("query", "up"), **changes}))


def small_model(**changes: Any) -> ModelSettings:
    """Return the settings of a new model of the size of ``small_run``."""
    return ModelSettings(**{"emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 16, **changes})


@pytest.mark.parametrize("pattern", ["transformer.embeddings.*", "*.attention.*", "head.bias"])
def test_frozen_parts_keep_their_weights(data: Path, whole_run: Path, tmp_path: Path, pattern: str) -> None:
    before = weights(whole_run)
    train(small_run(data, tmp_path / "run", model=start_from(whole_run / "last", freeze=(pattern,))))
    after = weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    prefix, _, suffix = pattern.partition("*")
    frozen = {name for name in before if name.startswith(prefix) and suffix.rstrip("*") in name}
    assert frozen
    assert changed == before.keys() - frozen
    (start,) = events(tmp_path / "run", "start")
    assert start["parameters"] - start["trained"] == sum(before[name].numel() for name in frozen)


def test_a_frozen_run_equals_a_plain_loop(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """The loop takes the same windows, with torch's own loss, and updates the trained parameters by hand."""
    from xlm.data.shards import Index
    from xlm.training.objectives.clm import CausalLM
    from xlm.training.optimiser import OriginalAdam, learning_rate
    from xlm.training.processes import Processes

    model = start_from(whole_run / "last", freeze=("transformer.embeddings.*", "*.ffn.*"))
    config = small_run(data, tmp_path / "run", model=model, max_steps=5, evaluate_every=0)
    train(config)
    plain = XLMWithLMHeadModel.from_pretrained(whole_run / "last", dropout=0.0, attention_dropout=0.0).train()
    trained = [
        parameter
        for name, parameter in plain.named_parameters()
        if not name.startswith("transformer.embeddings.") and ".ffn." not in name
    ]
    settings = config.optimiser
    optimiser = OriginalAdam(
        trained, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=settings.weight_decay
    )
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    batches = CausalLM(config, Index.read(data), small_tokenizer(), processes).batches({})
    for update in range(5):
        ((ids, language),) = next(batches).pieces
        logits = plain(ids, langs=language).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        optimiser.param_groups[0]["lr"] = learning_rate(
            update, schedule="inverse_sqrt", lr=settings.lr, warmup_steps=settings.warmup_steps, max_steps=5
        )
        optimiser.step()
    after = weights(tmp_path / "run")
    for name, tensor in plain.state_dict().items():
        # The gradient of a key's bias is zero but for rounding, which Adam enlarges; updates are of about 1e-3.
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_lora", [False, True], ids=["frozen", "lora"])
def test_cuts_change_nothing(data: Path, whole_run: Path, tmp_path: Path, has_lora: bool) -> None:
    if has_lora:
        pytest.importorskip("peft")
    model = start_from(whole_run / "last", dropout=0.2, freeze=() if has_lora else EMBEDDINGS)
    configs = [small_run(data, tmp_path / name, model=model) for name in ("whole", "run")]
    if has_lora:
        configs = [with_lora(config, dropout=0.1) for config in configs]
    train(configs[0])
    train_with_cuts(configs[1], [9, 4])
    assert updates(tmp_path / "run") == updates(tmp_path / "whole")
    for name in ("last", "best"):
        assert equal(weights(tmp_path / "run", name), weights(tmp_path / "whole", name))


def test_adapters_are_merged_as_peft_merges_them(data: Path, whole_run: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file

    config = with_lora(small_run(data, tmp_path / "run", model=start_from(whole_run / "last"), lr=5e-2), alpha=8.0)
    train(config)
    before, after = weights(whole_run), weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"transformer.layers.0.{part}.weight" for part in ("attention.query", "ffn.up")}
    checkpoint = tmp_path / "run/checkpoints/step-000000012"
    assert equal(dict(XLMWithLMHeadModel.from_pretrained(checkpoint).state_dict()), before)
    adapters = load_file(checkpoint / "adapters.safetensors")
    model = XLMWithLMHeadModel.from_pretrained(whole_run / "last")
    settings = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["query", "up"])
    peft.inject_adapter_in_model(settings, model.transformer)
    assert model.load_state_dict(adapters, strict=False).unexpected_keys == []
    input_ids = torch.tensor([[1, 20, 21, 22, 23]])
    merged = XLMWithLMHeadModel.from_pretrained(tmp_path / "run/last")
    difference = merged(input_ids, langs="en").logits - model.eval()(input_ids, langs="en").logits
    assert difference.abs().max() < 1e-5
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.merge()
    for name in changed:
        theirs = model.state_dict()[name.replace(".weight", ".base_layer.weight")]
        torch.testing.assert_close(after[name], theirs, rtol=0, atol=1e-7)


def test_parts_of_a_checkpoint(data: Path, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new model has two layers and more positions."""
    parts = ("transformer.embeddings.*", "transformer.layers.*", "head.bias")
    model = small_model(n_layers=2, max_position_embeddings=20, start_from=str(whole_run / "last"), start_parts=parts)
    lines: list[str] = []
    train(small_run(data, tmp_path / "run", model=model, max_steps=1, lr=1e-30, warmup_steps=0))
    (event,) = events(tmp_path / "run", "parts")
    theirs, ours = weights(whole_run), weights(tmp_path / "run")
    position = "transformer.embeddings.position.weight"
    assert event["unfit"] == {position: "its shape is (16, 16), and (20, 16) in the new model"}
    assert set(event["copied"]) == theirs.keys() - {position}
    assert set(event["new"]) == ours.keys() - set(event["copied"])
    for name in event["copied"]:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    from xlm.cli.train import _TEXTS

    lines = _TEXTS["parts"](event, 1).split("\n")
    assert f"{whole_run / 'last'}: copied transformer.layers.*.attention.query.weight (1 layers)" in lines
    assert f"not copied {position}: its shape is (16, 16), and (20, 16) in the new model" in lines
    assert f"new: {position}" in lines


@pytest.mark.parametrize(
    ("model", "where", "found"),
    [
        (small_model(start_parts=EMBEDDINGS), "model.start_parts", r"\('transformer.embeddings.\*',\)"),
        (small_model(start_from="START", start_parts=("embeddings.*",)), "model.start_parts", r"embeddings\.\*"),
        (small_model(start_from="START", emb_dim=8, start_parts=EMBEDDINGS), "model.start_parts", "its shape is"),
        (small_model(start_from="START", n_heads=4, start_parts=("*.ffn.*",)), "model.start_parts", "2 heads"),
        (
            small_model(start_from="START", gelu_activation=False, start_parts=("*.ffn.*",)),
            "model.start_parts",
            "gelu_activation",
        ),
        (ModelSettings(start_from="START", start_parts=EMBEDDINGS), "model.emb_dim", "unset|None"),
        (small_model(freeze=("embeddings.*",)), "model.freeze", r"embeddings\.\*"),
        (small_model(freeze=("*",)), "model.freeze", "every|\\*"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    data: Path, whole_run: Path, tmp_path: Path, model: ModelSettings, where: str, found: str
) -> None:
    if model.start_from:
        model = dataclasses.replace(model, start_from=str(whole_run / "last"))
    with pytest.raises(ConfigError, match=f"(?s){where}.*{found}"):
        train(small_run(data, tmp_path / "run", model=model))


def test_clm_needs_a_part_of_the_decoder(pairs: Path, translator: Path, tmp_path: Path) -> None:
    """Of a mixture, clm trains the decoder only."""
    model = start_from(translator, freeze=("decoder.*",))
    settings: dict[str, Any] = {"model": model, "max_steps": 2, "evaluate_every": 0}
    train(translation_run(pairs, tmp_path / "run", objectives=("ae:de", "mt:de-en"), **settings))
    before, after = translation_weights(translator.parent), translation_weights(tmp_path / "run")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("encoder.transformer.") for name in changed)
    with pytest.raises(ConfigError, match=r"(?s)clm.*model\.freeze"):
        train(translation_run(pairs, tmp_path / "mixed", objectives=("ae:de", "clm"), **settings))


def test_fixed_positions_are_not_copied(data: Path, whole_run: Path, tmp_path: Path) -> None:
    model = small_model(
        sinusoidal_embeddings=True, start_from=str(whole_run / "last"), start_parts=("transformer.embeddings.*",)
    )
    train(small_run(data, tmp_path / "run", model=model, max_steps=1, evaluate_every=0))
    (event,) = events(tmp_path / "run", "parts")
    assert list(event["unfit"]) == ["transformer.embeddings.position.weight"]
    expected = sinusoidal_positions(16, 16)
    assert torch.equal(weights(tmp_path / "run")["transformer.embeddings.position.weight"], expected)


@pytest.mark.parametrize(
    ("lora", "where"),
    [({"rank": 0}, "lora.targets"), ({"alpha": 0.0}, "lora.alpha"), ({"targets": ()}, "lora.targets")],
)
def test_settings_of_adapters_that_are_refused(tmp_path: Path, lora: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        with_lora(small_run(tmp_path, tmp_path / "run", model=start_from("start")), **lora)
    with pytest.raises(ConfigError, match="adapters need a model"):
        with_lora(small_run(tmp_path, tmp_path / "run"))


def test_adapters_are_for_layers_of_the_transformer() -> None:
    """An adaptive head has linear layers too, which get none."""
    pytest.importorskip("peft")
    sizes: dict[str, Any] = {"vocab_size": 40, "emb_dim": 16, "n_layers": 1, "n_heads": 2}
    model = XLMWithLMHeadModel(XLMConfig(**sizes, asm=True, asm_cutoffs=(10,), share_inout_emb=False))
    with pytest.raises(ConfigError, match=r"(?s)lora\.targets.*head"):
        add_adapters(model, LoraSettings(rank=2, targets=("query", "head")))


def test_targets_of_adapters_are_layers_of_the_model(data: Path, whole_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = with_lora(small_run(data, tmp_path / "run", model=start_from(whole_run / "last")), targets=("q_lin",))
    with pytest.raises(ConfigError, match=r"(?s)lora\.targets.*q_lin.*query"):
        train(config)


def test_changed_settings_are_announced(data: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tests.training.runs import write_config

    train(small_run(data, tmp_path / "run", max_steps=3))
    train(small_run(data, tmp_path / "run", max_steps=4, lr=1e-3), resume=True)
    changed = [(event["key"], event["before"], event["now"]) for event in events(tmp_path / "run", "changed")]
    assert sorted(changed) == [("optimiser.lr", 5e-3, 1e-3), ("run.max_steps", 3, 4)]
    train(small_run(data, tmp_path / "run", max_steps=5, lr=1e-3), resume=True)
    assert [event["key"] for event in events(tmp_path / "run", "changed")][2:] == ["run.max_steps"]
    config = write_config(tmp_path / "config.toml", data, tmp_path / "run", max_steps=6)
    result = CliRunner().invoke(command, [str(config), "--resume"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "run.max_steps: 5 → 6" in lines
    assert "optimiser.lr: 0.001 → 0.005" in lines


def test_a_new_key_of_a_checkpoint_is_no_change(data: Path, tmp_path: Path) -> None:
    """An earlier release did not have the tables and keys that are removed here."""
    import xlm.training.checkpoints as checkpoints

    train(small_run(data, tmp_path / "run", max_steps=3))
    (file,) = (tmp_path / "run/checkpoints").glob("*/state.json")
    contents = json.loads(file.read_text("utf-8"))
    contents.pop("sha256")
    state = contents["state"]
    state["run"].pop("lora")
    for values in (state["run"], state["config"]):
        values["model"].pop("freeze")
    state["config"].pop("lora")
    file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    train(small_run(data, tmp_path / "run", max_steps=4), resume=True)
    assert [event["key"] for event in events(tmp_path / "run", "changed")] == ["run.max_steps"]


def test_weights_and_biases(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline run writes a file of its records; wandb's own format is the oracle."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(small_run(data, tmp_path / "run", max_steps=2, evaluate_every=2, wandb="small"))
    name = (tmp_path / "run/wandb-id.txt").read_text()
    train(small_run(data, tmp_path / "run", max_steps=4, evaluate_every=2, wandb="small"), resume=True)
    assert (tmp_path / "run/wandb-id.txt").read_text() == name
    files = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2
    with at_most(60):
        while not all(is_complete for _, is_complete in map(read_rows, files)):  # another process writes them
            time.sleep(0.1)
    rows = [row for file in files for row in read_rows(file)[0]]
    losses = [(int(row["updates"]), float(row["loss"])) for row in rows if "loss" in row]
    assert losses == [(number, loss) for number, loss, _ in updates(tmp_path / "run")]
    assert [int(row["updates"]) for row in rows if "perplexity/de" in row] == [2, 4]


def read_rows(file: Path) -> tuple[list[dict[str, str]], bool]:
    """Return the rows of numbers in a file of Weights & Biases, and whether the file is complete.

    It holds records of protobuf in the log format of LevelDB.
    """
    from wandb.proto import wandb_internal_pb2

    content, position, parts, rows, is_complete = file.read_bytes(), 7, b"", [], False
    while position + 7 <= len(content):
        if 2**15 - position % 2**15 < 7:  # a header never crosses the end of a block
            position += 2**15 - position % 2**15
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            is_complete |= record.WhichOneof("record_type") == "exit"
            if record.WhichOneof("record_type") == "history":
                rows.append({".".join(item.nested_key) or item.key: item.value_json for item in record.history.item})
    return rows, is_complete
