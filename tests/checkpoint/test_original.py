"""Oracle: the demo's checkpoint, which is made without this library; and it again, spoilt in one way each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoint.original_files import demo_data, save, spoilt
from xlm import XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.original import read_dictionary, read_original
from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.errors import CheckpointError

Change = Callable[[dict[str, Any]], object]


def prefixed(data: dict[str, Any]) -> None:
    data["model"] = {f"module.{name}": tensor for name, tensor in data["model"].items()}


def doubled(data: dict[str, Any]) -> None:
    data["model"]["pred_layer.proj.weight"] = data["model"]["embeddings.weight"].clone()


def halved(data: dict[str, Any]) -> None:
    data["model"] = {name: tensor.half() for name, tensor in data["model"].items()}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("change", [lambda data: None, prefixed, doubled], ids=["plain", "module.", "doubled"])
def test_reads_every_form(change: Change, legacy: bool, tmp_path: Path) -> None:
    data = demo_data(tmp_path)
    expected = dict(data["model"])
    del expected["pred_layer.proj.weight"]
    change(data)
    checkpoint = read_original(save(data, tmp_path / "x.pth", legacy=legacy))
    assert {ORIGINAL.theirs(name) for name in checkpoint.tensors} == set(expected)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor, expected[ORIGINAL.theirs(name)]), name
    assert checkpoint.words == tuple(data["dico_id2word"].values())
    assert checkpoint.provenance.record is not None
    assert checkpoint.provenance.record.counts == tuple(data["dico_counts"].values())
    assert checkpoint.provenance.record.training["best_metrics"] == data["best_metrics"]
    assert checkpoint.config.causal
    assert dict(checkpoint.config.lang2id) == {"de": 0, "en": 1}
    assert checkpoint.config.max_position_embeddings == 64


def test_half_precision_keeps_its_type_and_loads_as_float32(tmp_path: Path) -> None:
    path = spoilt(tmp_path, halved)
    assert {tensor.dtype for tensor in read_original(path).tensors.values()} == {torch.float16}
    assert XLMWithLMHeadModel.from_pretrained(path).dtype == torch.float32
    assert XLMWithLMHeadModel.from_pretrained(path, dtype="auto").dtype == torch.float16
    assert XLMWithLMHeadModel.from_pretrained(path, dtype="bfloat16").dtype == torch.bfloat16


def test_optimiser_state_is_left_out_and_said_so(tmp_path: Path) -> None:
    path = spoilt(tmp_path, lambda data: data.update(model_optimizer={"state": {}, "param_groups": []}))
    assert any("optimiser" in note for note in read_original(path).notes)


def test_direction_follows_the_training_steps(tmp_path: Path) -> None:
    def masked(data: dict[str, Any]) -> None:
        data["params"] |= {"clm_steps": [], "mlm_steps": [("en", None)]}

    path = spoilt(tmp_path, masked)
    assert not read_original(path).config.causal
    assert not XLMWithLMHeadModel.from_pretrained(path).config.causal
    assert XLMWithLMHeadModel.from_pretrained(path, causal=True).config.causal


def test_dictionary(tmp_path: Path) -> None:
    data = demo_data(tmp_path)
    found = read_dictionary(tmp_path / "demo.pth")
    assert found.words == tuple(data["dico_id2word"].values())
    assert found.lang2id == {"de": 0, "en": 1}


def with_weights(**changes: Any) -> Change:
    """Replaces tensors of the state dict, or removes those set to None."""

    def change(data: dict[str, Any]) -> None:
        for name, tensor in changes.items():
            data["model"].pop(name, None)
            if tensor is not None:
                data["model"][name] = tensor

    return change


def with_params(**changes: Any) -> Change:
    return lambda data: data["params"].update(changes)


def drop(*path: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


def put(value: Any, *path: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def with_nan(data: dict[str, Any]) -> None:
    data["model"]["ffns.1.lin1.weight"][3, 4] = float("nan")
    data["model"]["layer_norm1.0.bias"][1] = float("-inf")


def both_prefixes(data: dict[str, Any]) -> None:
    data["model"]["module.embeddings.weight"] = data["model"]["embeddings.weight"]


def untied_copy(data: dict[str, Any]) -> None:
    data["model"]["pred_layer.proj.weight"] = data["model"]["embeddings.weight"] + 1


def expanded(data: dict[str, Any]) -> None:
    data["model"]["ffns.0.lin1.weight"] = torch.zeros(1).expand(128, 32)


def more_words(data: dict[str, Any]) -> None:
    data["dico_id2word"][len(data["dico_id2word"])] = "new"
    data["dico_word2id"]["new"] = len(data["dico_word2id"])
    data["dico_counts"]["new"] = 1


def doubling(levels: int) -> list[Any]:
    """Sixty bytes that stand for more parts than there are atoms."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


BAD: dict[str, tuple[Change, list[str]]] = {
    "MT": (lambda data: data.update(encoder=data.pop("model"), decoder={}), ["encoder and decoder", "encoder_only"]),
    "encoder_only": (with_params(encoder_only=False), ["model with encoder_only = False"]),
    "memory layers": (with_params(use_memory=True), ["memory layers"]),
    "no model": (drop("model"), ["no dict under model"]),
    "no params": (drop("params"), ["no dict under params"]),
    "params are a list": (put([], "params"), ["no dict under params"]),
    "missing tensors": (
        with_weights(**{"attentions.1.q_lin.bias": None, "pred_layer.proj.bias": None}),
        ["missing: ", "attentions.1.q_lin.bias", "pred_layer.proj.bias"],
    ),
    "extra tensors": (
        with_weights(**{"encoder_attn.0.q_lin.weight": torch.zeros(2), "attentions.7.q_lin.bias": torch.zeros(32)}),
        ["extra: ", "encoder_attn.0.q_lin.weight", "attentions.7.q_lin.bias"],
    ),
    "wrong shapes": (
        with_weights(**{"ffns.0.lin2.bias": torch.zeros(31), "layer_norm_emb.weight": torch.zeros(1, 32)}),
        ["wrong shape: ", "ffns.0.lin2.bias (31,) instead of (32,)", "layer_norm_emb.weight (1, 32)"],
    ),
    "NaN and infinity": (
        with_nan,
        ["not finite: ", "ffns.1.lin1.weight (1 of 4096 values)", "layer_norm1.0.bias (1 of 32 values)"],
    ),
    "not a tensor": (with_weights(**{"ffns.0.lin2.bias": [0.0] * 32}), ["not a tensor: ffns.0.lin2.bias (list)"]),
    "whole numbers": (with_weights(**{"ffns.0.lin2.bias": torch.zeros(32).long()}), ["not floating point"]),
    "expanded": (expanded, ["not a plain tensor: ffns.0.lin1.weight"]),
    "both prefixes": (both_prefixes, ["both with and without the prefix 'module.'", "embeddings.weight"]),
    "copy that differs": (untied_copy, ["not equal to the word embeddings", "pred_layer.proj.weight"]),
    "n_words": (with_params(n_words=50), ["differ in size", "50 n_words"]),
    "more words": (more_words, ["differ in size", "words in dico_id2word"]),
    "fewer rows": (with_weights(**{"embeddings.weight": torch.zeros(50, 32)}), ["differ in size", "50 rows"]),
    "endless parts": (lambda data: data["params"].update(x=doubling(60)), ["cannot be stored", "parts"]),
    "endless depth": (lambda data: data["params"].update(x=nested(150)), ["cannot be stored", "levels"]),
    "tensor of a terabyte": (
        lambda data: data["params"].update(x=torch.zeros(1).expand(10**6, 10**6)),
        ["cannot be stored", "1000000"],
    ),
    "bfloat16 parameter": (with_params(x=torch.zeros(2, dtype=torch.bfloat16)), ["cannot be stored", "bfloat16"]),
    "sparse parameter": (with_params(x=torch.zeros(2).to_sparse()), ["cannot be read"]),
    "bytearray": (with_params(x=bytearray(5)), ["cannot be read", "bytearray"]),
    "languages without end": (with_params(n_langs=10**10), ["n_langs", "at most"]),
    "huge width": (with_params(emb_dim=10**30), ["emb_dim"]),
    "huge dropout": (with_params(dropout=10**400), ["dropout"]),
    "cutoffs": (with_params(asm=True, asm_cutoffs=5), ["configuration cannot make a model"]),
    "float8": (with_weights(**{"ffns.0.lin2.bias": torch.zeros(32).to(torch.float8_e4m3fn)}), ["cannot be read"]),
    "meta tensor": (with_weights(**{"ffns.0.lin2.bias": torch.zeros(32, device="meta")}), []),
    "gap in ids": (lambda data: data["dico_id2word"].pop(20), ["gaps"]),
    "ids are text": (put({"a": "b"}, "dico_id2word"), ["gaps"]),
    "word is a number": (put(5, "dico_id2word", 20), ["gaps"]),
    "special words": (put("oops", "dico_id2word", 1), ["special words"]),
    "word twice": (put("the", "dico_id2word", 20), ["one to one"]),
    **{
        f"{name} is a {type(value).__name__}": (with_params(**{name: value}), ["arrays", name])
        for name in ("encoder_only", "lang2id", "asm", "clm_steps", "mlm_steps", "dropout")
        for value in (torch.tensor([1, 2]), np.array([1, 2]))
    },
    "word2id is a number": (put(5, "dico_word2id"), ["one to one"]),
    "word2id is a tensor": (put(torch.tensor([1, 2]), "dico_word2id"), ["one to one"]),
    "word2id of arrays": (put(np.array([1, 2]), "dico_word2id", "the"), ["one to one"]),
    "word2id differs": (put(3, "dico_word2id", "the"), ["one to one"]),
    "counts missing": (put({}, "dico_counts"), ["counts do not match"]),
    "counts of text": (put("many", "dico_counts", "the"), ["counts do not match"]),
    "no emb_dim": (drop("params", "emb_dim"), ["no emb_dim"]),
    "heads": (with_params(n_heads=5), ["n_heads", "divisor"]),
    "layers": (with_params(n_layers=10**9), ["missing: 999999998 of the 1000000000 layers"]),
    "languages": (with_params(lang2id={"de": 0, "en": 5}), ["lang2id"]),
    "languages of a wrong type": (with_params(lang2id=7), ["configuration cannot make a model"]),
    "n_langs": (with_params(n_langs=3), ["lang2id"]),
    "dropout is text": (with_params(dropout="much"), ["dropout"]),
    "numpy dropout": (with_params(dropout=np.array([1, 2])), ["dropout"]),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_bad_checkpoints(change: Change, words: list[str], tmp_path: Path) -> None:
    path = spoilt(tmp_path, change)
    target = tmp_path / "target"
    with pytest.raises(CheckpointError) as error:
        convert(path, target)
    text = str(error.value)
    assert str(path) in text
    for word in words:
        assert word in text
    assert not target.exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.zeros(2)}, torch.zeros(3), "text", None])
def test_other_things_that_torch_saved(content: object, tmp_path: Path) -> None:
    path = save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of the original"):
        read_original(path)
