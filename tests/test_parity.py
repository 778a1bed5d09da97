"""Parity checks. Oracle: recorded results of the original; models that are wrong on purpose and must be detected."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import RECORDED
from tests.demo_files import write_demo_files
from tests.model.small_models import random_ids, small_model
from xlm import XLMError, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.parity import larger
from xlm.parity.peer import _both_models, against_transformers
from xlm.parity.reference import against_reference

EVERYTHING = {
    "causal.hidden",
    "causal.logits",
    "causal.position_ids.logits",
    "bidirectional.hidden",
    "bidirectional.logits",
    "train.loss",
    "train.grad",
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_checkpoints(name: str, reference: Path) -> None:
    """Logits, hidden states, given positions, training loss and every gradient stay within the bounds of xlm.parity."""
    folder = reference / "checkpoints"
    report = against_reference(folder / f"{name}.pth", folder / f"{name}.reference.safetensors")
    assert report.holds, str(report)
    assert {comparison.name for comparison in report.comparisons} == EVERYTHING


@pytest.mark.parametrize("name", ["plain", "fp16_module_legacy", "adaptive_softmax"])
def test_recorded_checkpoints_after_conversion(name: str, reference: Path, tmp_path: Path) -> None:
    folder = reference / "checkpoints"
    convert(folder / f"{name}.pth", tmp_path / "converted")
    report = against_reference(tmp_path / "converted", folder / f"{name}.reference.safetensors")
    assert report.holds, str(report)


def test_trained_checkpoint(reference: Path) -> None:
    """80 sentences of a model that the original trained, from their ids; and all logits of the first sentence."""
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    for file, compared in (("reference.json", 1329), ("first_sentence.safetensors", 12 * 64)):
        report = against_reference(folder / "clm_ende_multi30k.pth", folder / file)
        assert report.holds, str(report)
        assert report.comparisons[0].compared == compared


def test_trained_checkpoint_against_transformers(reference: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    convert(folder / "clm_ende_multi30k.pth", tmp_path / "model", codes=reference / "published" / "codes_ende")
    texts = (folder / "test.de").read_text(encoding="utf-8").splitlines()[:40]
    report = against_transformers(tmp_path / "model", texts=texts, lang="de")
    assert report.holds, str(report)
    assert [comparison.compared for comparison in report.comparisons[:2]] == [54, 40]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_demo_files(tmp_path)
    convert(tmp_path / "demo.pth", tmp_path / "model", codes=tmp_path / "codes")
    return tmp_path / "model"


@pytest.fixture
def recorded(model: Path, tmp_path: Path) -> Path:
    """Return the results of this model, in the format of a reference."""
    ours = XLMWithLMHeadModel.from_pretrained(model)
    ids = torch.randint(14, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = ours(ids, langs=1, output_hidden_states=True)
    assert output.hidden_states is not None
    answers = {"logits": output.logits, "hidden": output.hidden_states[-1]}
    save_file({"input_ids": ids, "langs": torch.ones_like(ids), **answers}, tmp_path / "reference.safetensors")
    return tmp_path / "reference.safetensors"


def test_the_same_model_holds(model: Path, recorded: Path) -> None:
    report = against_reference(model, recorded)
    assert report.holds
    assert "parity holds" in str(report)
    assert [comparison.name for comparison in report.comparisons] == ["hidden", "logits"]


TRANSLATORS = ("encdec_plain", "encdec_sinusoidal_untied")


@pytest.mark.parametrize("name", TRANSLATORS)
@pytest.mark.parametrize("converted", [False, True])
def test_recorded_translation_models(name: str, converted: bool, reference: Path, tmp_path: Path) -> None:
    model = reference / "unmt" / f"{name}.pth"
    if converted:
        convert(model, tmp_path / "model")
        model = tmp_path / "model"
    report = against_reference(model, reference / "unmt" / f"{name}.reference.safetensors")
    assert report.holds, str(report)
    each = ("encoder.hidden", "decoder.hidden", "decoder.logits", "loss")
    expected = {f"{direction}.{number}" for direction in ("de-en", "en-de") for number in each}
    assert {comparison.name for comparison in report.comparisons} == expected | {"en-de.grad"}


@pytest.mark.parametrize(
    ("name", "change", "differs"),
    [
        ("encoder.transformer.attentions.0.q_lin.bias", 1e-2, "encoder.hidden"),
        ("decoder.transformer.encoder_attn.1.out_lin.bias", 1e-2, "decoder.hidden"),
        ("decoder.pred_layer.proj.bias", 1e-2, "loss"),
    ],
)
def test_a_wrong_translation_model_is_found_out(
    name: str, change: float, differs: str, reference: Path, tmp_path: Path
) -> None:
    convert(reference / "unmt" / "encdec_plain.pth", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights[name][3] += change
    save_file(weights, tmp_path / "model" / "model.safetensors")
    report = against_reference(tmp_path / "model", reference / "unmt" / "encdec_plain.reference.safetensors")
    wrong = {comparison.name for comparison in report.comparisons if not comparison.holds}
    assert {f"de-en.{differs}", f"en-de.{differs}", "en-de.grad"} <= wrong


BAD_TRANSLATIONS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "lacks tgt_lengths": lambda tensors: tensors.pop("en-de.tgt_lengths"),
    "another model": lambda tensors: tensors.update(
        {"en-de.decoder.logits": tensors["en-de.decoder.logits"][:, :, :5].contiguous()}
    ),
    "belongs to another": lambda tensors: tensors.update({"en-de.grad.decoder.other": torch.ones(2)}),
    "nothing to compare": lambda tensors: [tensors.pop(name) for name in list(tensors) if "src" not in name[5:9]],
    "input_ids|src_ids": lambda tensors: [tensors.pop(name) for name in list(tensors) if "src" in name],
}


@pytest.mark.parametrize(("message", "change"), BAD_TRANSLATIONS.items(), ids=BAD_TRANSLATIONS.keys())
def test_bad_references_of_translation_models(
    message: str, change: Callable[[dict[str, torch.Tensor]], object], reference: Path, tmp_path: Path
) -> None:
    tensors = load_file(reference / "unmt" / "encdec_plain.reference.safetensors")
    change(tensors)
    if message == "nothing to compare":  # the ids are there, and nothing else
        whole = load_file(reference / "unmt" / "encdec_plain.reference.safetensors")
        tensors |= {name: whole[name] for name in whole if name[6:9] in ("src", "tgt")}
    save_file(tensors, tmp_path / "reference.safetensors")
    with pytest.raises(XLMError, match=message):
        against_reference(reference / "unmt" / "encdec_plain.pth", tmp_path / "reference.safetensors")


def test_a_reference_of_the_other_kind_of_model(model: Path, recorded: Path, reference: Path) -> None:
    translator = reference / "unmt" / "encdec_plain.pth"
    with pytest.raises(XLMError, match="a translation model, not a language model"):
        against_reference(translator, recorded)
    with pytest.raises(XLMError, match="a language model, not a translation model"):
        against_reference(model, reference / "unmt" / "encdec_plain.reference.safetensors")
    with pytest.raises(XLMError, match="no such translation model"):
        against_transformers(translator)


WRONG: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a little": lambda tensor: tensor + 1e-4,
    "one value": lambda tensor: tensor.index_fill(0, torch.tensor([3]), 0.5),
    "order": lambda tensor: tensor.flip(0),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize(
    "name", ["pred_layer.proj.bias", "transformer.layer_norm2.0.bias", "transformer.ffns.1.lin1.bias"]
)
def test_a_wrong_model_is_found_out(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], model: Path, recorded: Path
) -> None:
    weights = load_file(model / "model.safetensors")
    if name == "transformer.layer_norm2.0.bias":
        weights[name] = torch.arange(32.0) / 100
        save_file(weights, model / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, model / "model.safetensors")
    report = against_reference(model, recorded)
    assert not report.holds
    assert "DOES NOT HOLD" in str(report)


def test_not_a_number_never_holds(model: Path, recorded: Path) -> None:
    tensors = load_file(recorded)
    tensors["logits"][0, 0, 0] = float("nan")
    save_file(tensors, recorded)
    assert not against_reference(model, recorded).holds


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("input_ids"),
        lambda tensors: [tensors.pop(name) for name in ("logits", "hidden")],
        lambda tensors: tensors.update(logits=tensors["logits"][:, :, :5].contiguous()),
    ],
)
def test_bad_references(change: Callable[[dict[str, torch.Tensor]], object], model: Path, recorded: Path) -> None:
    tensors = load_file(recorded)
    change(tensors)
    save_file(tensors, recorded)
    with pytest.raises(XLMError, match="reference"):
        against_reference(model, recorded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sentences": [{"ids": [1]}]}', '{"sentences": []}'])
def test_bad_json_references(content: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(content)
    with pytest.raises(XLMError, match="reference") as error:
        against_reference(model, path)
    assert str(path) in str(error.value)


def test_json_reference(model: Path, tmp_path: Path) -> None:
    ours = XLMWithLMHeadModel.from_pretrained(model)
    ids = [1, 20, 30, 40, 1]
    with torch.inference_mode():
        logits = ours(torch.tensor([ids[:-1]]), langs="de").logits[0]
    logprobs = [float(row.log_softmax(0)[token]) for row, token in zip(logits, ids[1:], strict=True)]
    path = tmp_path / "reference.json"
    for difference, holds in ((0.0, True), (0.5, False)):
        row = {"lang": "de", "ids": ids, "logprobs": [logprobs[0] + difference, *logprobs[1:]]}
        path.write_text(json.dumps({"sentences": [row]}))
        assert against_reference(model, path).holds is holds


@pytest.mark.parametrize(
    "row",
    [
        {"logprobs": [-1.0]},
        {"logprobs": []},
        {"logprobs": ["a", "b", "c", "d"]},
        {"ids": ["a", "b", "c", "d", "e"]},
        {"ids": 7},
    ],
)
def test_sentences_that_do_not_fit(row: dict[str, object], model: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    whole = {"lang": "de", "ids": [1, 20, 30, 40, 1], "logprobs": [-1.0] * 4}
    path.write_text(json.dumps({"sentences": [{**whole, **row}]}))
    with pytest.raises(XLMError, match="reference cannot be read"):
        against_reference(model, path)


@pytest.mark.parametrize("place", [0, 3])
def test_not_a_number_never_holds_in_sentences(place: int, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    logprobs = [-1.0] * 4
    logprobs[place] = float("nan")
    rows = [{"lang": "de", "ids": [1, 20, 30, 40, 1], "logprobs": row} for row in (logprobs, [-1.0] * 4)]
    path.write_text(json.dumps({"sentences": rows}))
    report = against_reference(model, path)
    assert not report.holds
    assert math.isnan(report.comparisons[0].worst)


def test_the_larger_of_two() -> None:
    nan = float("nan")
    assert larger(1.0, 2.0) == larger(2.0, 1.0) == 2.0
    assert all(math.isnan(value) for value in (larger(nan, 1.0), larger(1.0, nan), larger(nan, nan)))


def with_gradients(model: Path, recorded: Path) -> dict[str, torch.Tensor]:
    ours = XLMWithLMHeadModel.from_pretrained(model)
    tensors = load_file(recorded)
    loss = ours(tensors["input_ids"], langs=tensors["langs"], labels=tensors["input_ids"]).loss
    assert loss is not None
    torch.autograd.backward(loss)
    gradient = dict(ours.named_parameters())["transformer.layers.0.ffn.up.weight"].grad
    assert gradient is not None
    return {
        **tensors,
        "train.rows": torch.tensor([0, 1]),
        "train.loss": loss.detach()[None],
        "train.grad.ffns.0.lin1.weight": gradient,
    }


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"train.grad.ffns.0.lin1.weight": torch.full((128, 32), float("nan"))}, False),
        ({"train.grad.ffns.0.lin1.weight": torch.ones(128, 32)}, False),
        ({"train.loss": torch.tensor([float("nan")])}, False),
    ],
)
def test_gradients(change: dict[str, torch.Tensor], holds: bool, model: Path, recorded: Path) -> None:
    save_file({**with_gradients(model, recorded), **change}, recorded)
    assert against_reference(model, recorded).holds is holds


@pytest.mark.parametrize(
    "change",
    [
        {"train.rows": torch.tensor([0, 9])},
        {"train.rows": torch.tensor([0.5])},
        {"train.grad.nothing": torch.ones(2)},
        {"train.grad.ffns.0.lin1.weight": torch.ones(2)},
    ],
)
def test_gradients_that_do_not_fit(change: dict[str, torch.Tensor], model: Path, recorded: Path) -> None:
    save_file({**with_gradients(model, recorded), **change}, recorded)
    with pytest.raises(XLMError, match="reference"):
        against_reference(model, recorded)


def test_texts_that_cannot_be_tokenized(model: Path, tmp_path: Path) -> None:
    cases: list[tuple[Path, list[str]]] = [(model, []), (tmp_path / "demo.pth", ["text"])]
    for path, texts in cases:
        with pytest.raises(XLMError, match="no texts"):
            against_transformers(path, texts=texts, lang="de")


@pytest.mark.parametrize("texts", ["The dog .", [7], 7])
def test_texts_that_are_none(texts: Any, model: Path) -> None:
    with pytest.raises(XLMError, match=r"(?s)texts|str"):
        against_transformers(model, texts=texts, lang="de")


def test_a_model_in_memory_is_not_a_path(model: Path) -> None:
    ours = XLMWithLMHeadModel.from_pretrained(model)
    with pytest.raises(XLMError, match=r"(?s)Not a path.*XLMWithLMHeadModel"):
        against_transformers(ours)  # type: ignore[arg-type]
    with pytest.raises(XLMError, match=r"(?s)Not a path.*XLMWithLMHeadModel"):
        against_reference(model, ours)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "our_error", "their_error", "holds"),
    [
        (0.0, 0.0, 0.0, [True]),
        (1e-5, 0.0, 0.0, [False, False]),  # a slightly different model
        (1e-5, 0.0, 1e-5, [True, False]),  # the same, hidden by rounding
        (0.0, 3e-6, 5e-6, [True, True]),  # both round
        (0.0, 5e-6, 0.0, [False, True]),  # only ours is wrong in float32
        (0.0, float("nan"), 0.0, [False, True]),
    ],
)
def test_rounding_is_told_from_another_model(
    scale: float, our_error: float, their_error: float, holds: list[bool]
) -> None:
    ours, theirs = (small_model() for _ in range(2))
    with torch.no_grad():
        theirs.transformer.layers[0].ffn.down.weight.mul_(1 + scale)
    for model, error in ((ours, our_error), (theirs, their_error)):
        model.register_forward_hook(partial(_rounds, error))
    rows = random_ids(20, 10).tolist()  # more than one batch
    found = _both_models(ours, theirs, rows, [0] * len(rows))
    assert [comparison.holds for comparison in found] == holds


def _rounds(error: float, _model: object, _inputs: object, output: Any) -> None:
    """Return float32 logits with an error of this share of the largest."""
    if output.logits.dtype == torch.float32:
        output.logits.add_(error * output.logits.abs().max())
