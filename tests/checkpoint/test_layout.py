"""Oracle: what was saved; the published configuration; then directories spoilt in one way each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.demo_files import write_demo_files
from tests.model.small_models import requested
from xlm import XLMConfig, XLMWarning, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.hf_config import read_config
from xlm.checkpoint.json_codec import pack_integers
from xlm.checkpoint.load import open_checkpoint
from xlm.errors import CheckpointError, ConfigError, XLMError

SMALL = XLMConfig(vocab_size=60, emb_dim=16, n_layers=2, n_heads=2, n_langs=2, lang2id={"de": 0, "en": 1})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    XLMWithLMHeadModel(SMALL).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(share_inout_emb=False),
        SMALL.replace(asm=True, asm_cutoffs=(20, 40), asm_div_value=2.0),
        SMALL.replace(n_langs=1, lang2id={}),
        SMALL.replace(causal=False, gelu_activation=False, sinusoidal_embeddings=True, embed_init_std=0.1),
        SMALL.replace(use_lang_emb=False, max_position_embeddings=20, lang_id=1, dropout=0.0, layer_norm_eps=1e-5),
    ],
)
def test_saved_is_loaded(config: XLMConfig, tmp_path: Path) -> None:
    model = XLMWithLMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "model")
    again = XLMWithLMHeadModel.from_pretrained(tmp_path / "model")
    expected = config if config.embed_init_std else config.replace(embed_init_std=config.emb_dim**-0.5)
    assert again.config == expected
    assert not again.training
    assert [name for name, weight in again.named_parameters() if not weight.requires_grad] == (
        ["transformer.embeddings.position.weight"] if config.sinusoidal_embeddings else []
    )
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces(directory: Path) -> None:
    other = XLMWithLMHeadModel(SMALL.replace(n_layers=1))
    other.save_pretrained(directory)
    assert XLMWithLMHeadModel.from_pretrained(directory).config.n_layers == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types(dtype: str, directory: Path, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    low = XLMWithLMHeadModel.from_pretrained(directory, dtype=dtype)
    assert {weight.dtype for weight in low.parameters()} == {kind}
    low.save_pretrained(tmp_path / "low")
    assert {tensor.dtype for tensor in load_file(tmp_path / "low" / "model.safetensors").values()} == {kind}
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "low", dtype="auto").dtype == kind
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "low").dtype == torch.float32
    with pytest.raises(ConfigError, match="No such type"):
        XLMWithLMHeadModel.from_pretrained(directory, dtype="float8")


def test_loaded_weights_can_be_trained(directory: Path) -> None:
    """They are mapped from the file until they are written to, and the file must not change with them."""
    before = (directory / "model.safetensors").read_bytes()
    model = XLMWithLMHeadModel.from_pretrained(directory).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.arange(14, 30)[None]
    torch.autograd.backward(requested(model(ids, langs="en", labels=ids).loss))
    optimizer.step()
    again = XLMWithLMHeadModel.from_pretrained(directory)
    assert not torch.equal(model.state_dict()["head.bias"], again.state_dict()["head.bias"])
    assert (directory / "model.safetensors").read_bytes() == before


def test_published_causal_false_does_not_count(directory: Path) -> None:
    def as_published(values: dict[str, Any]) -> None:
        values["causal"] = False
        del values["xlm"]

    edit(directory, as_published)
    with pytest.warns(XLMWarning, match="treated as causal"):
        assert XLMWithLMHeadModel.from_pretrained(directory).config.causal
    assert not XLMWithLMHeadModel.from_pretrained(directory, causal=False).config.causal


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_that_was_changed_in_the_file_counts(causal: bool, tmp_path: Path) -> None:
    """By hand, or by ``transformers``, which keeps our key as it was: it computes what the plain key says."""
    transformers = pytest.importorskip("transformers")
    XLMWithLMHeadModel(SMALL.replace(causal=not causal)).save_pretrained(tmp_path)
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(tmp_path)
    theirs.config.causal = causal
    theirs.save_pretrained(tmp_path / "changed")
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "changed").config.causal == causal


def test_our_own_word_on_causal_counts(tmp_path: Path) -> None:
    XLMWithLMHeadModel(SMALL.replace(causal=False)).save_pretrained(tmp_path)
    assert not XLMWithLMHeadModel.from_pretrained(tmp_path).config.causal


def test_published_configuration(reference: Path) -> None:
    with pytest.warns(XLMWarning):
        config, provenance, _ = read_config(reference / "published/xlm-clm-ende-1024")
    expected = XLMConfig.clm_ende_1024(embed_init_std=2048**-0.5)
    assert config == expected
    assert config.mask_token_id == 5
    assert provenance.extra_config["summary_type"] == "first"


def test_keys_of_others_are_kept(directory: Path, tmp_path: Path) -> None:
    write_demo_files(tmp_path)
    edit(directory, lambda values: values.update(summary_type="first", mine={"a": [1, 2.5, None]}))
    convert(directory, tmp_path / "again")
    values = json.loads((tmp_path / "again" / "config.json").read_text())
    assert values["summary_type"] == "first"
    assert values["mine"] == {"a": [1, 2.5, None]}


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def record(**changes: Any) -> dict[str, Any]:
    return {"params": {}, "training": {}, "counts": pack_integers([0] * 60), **changes}


def shard(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def pickled(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    # As transformers 4 wrote them: the shared weight under both names, and a buffer of positions.
    tensors["pred_layer.proj.weight"] = tensors["transformer.embeddings.weight"]
    tensors["transformer.position_ids"] = torch.arange(512)[None]
    torch.save(tensors, directory / "pytorch_model.bin")


def pickled_shards(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "part.bin")
    index = {"weight_map": dict.fromkeys(tensors, "part.bin")}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("form", [shard, pickled, pickled_shards])
def test_other_forms_of_weights(form: Callable[[Path], None], directory: Path) -> None:
    expected = XLMWithLMHeadModel.from_pretrained(directory).state_dict()
    form(directory)
    found = XLMWithLMHeadModel.from_pretrained(directory).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def index_without_map(directory: Path) -> None:
    shard(directory)
    (directory / "model.safetensors.index.json").write_text('{"weight_map": 3}')


def shard_missing(directory: Path) -> None:
    shard(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def pickled_list(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save([1], directory / "pytorch_model.bin")


def index_with(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        shard(directory)
        path = directory / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        index["weight_map"] |= changes
        path.write_text(json.dumps(index))

    return change


def outside(directory: Path) -> None:
    (directory.parent / "elsewhere.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    index_with(**{"pred_layer.proj.bias": "../elsewhere.safetensors"})(directory)


def rewritten(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors") | changes
        save_file({k: v for k, v in tensors.items() if v is not None}, directory / "model.safetensors")

    return change


def cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (lambda d: (d / "config.json").unlink(), ["config.json"]),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), ["config.json", "JSON"]),
    "config is a list": (lambda d: (d / "config.json").write_text("[1]"), ["config.json"]),
    "config is not UTF-8": (lambda d: (d / "config.json").write_bytes(b'{"a": "\xff"}'), ["config.json", "UTF-8"]),
    "another model": (lambda d: edit(d, lambda v: v.update(model_type="bert")), ["bert"]),
    "a decoder": (lambda d: edit(d, lambda v: v.update(is_encoder=False)), ["is_encoder"]),
    "keys missing": (lambda d: edit(d, lambda v: (v.pop("n_heads"), v.pop("emb_dim"))), ["no emb_dim, n_heads"]),
    "heads": (lambda d: edit(d, lambda v: v.update(n_heads=3)), ["n_heads", "divisor"]),
    "text for a number": (lambda d: edit(d, lambda v: v.update(n_layers="two")), ["n_layers"]),
    "languages are a list": (lambda d: edit(d, lambda v: v.update(lang2id=["de"])), ["configuration"]),
    "our key": (lambda d: edit(d, lambda v: v.update(xlm=[])), ["xlm"]),
    "our record": (lambda d: edit(d, lambda v: v["xlm"].update(original={"params": 1})), ["xlm.original"]),
    "more layers than there are": (lambda d: edit(d, lambda v: v.update(n_layers=10**9)), ["layers"]),
    "another vocabulary": (lambda d: edit(d, lambda v: v.update(vocab_size=61)), ["wrong shape", "(61, 16)"]),
    "tied is text": (lambda d: edit(d, lambda v: v.update(share_inout_emb="no")), ["share_inout_emb: 'no'"]),
    "our causal is text": (lambda d: edit(d, lambda v: v["xlm"].update(causal="no")), ["causal: 'no'"]),
    "huge width": (lambda d: edit(d, lambda v: v.update(emb_dim=10**30)), ["emb_dim"]),
    "huge positions": (lambda d: edit(d, lambda v: v.update(max_position_embeddings=2**31 - 1)), ["2147483647"]),
    "huge epsilon": (lambda d: edit(d, lambda v: v.update(layer_norm_eps=10**400)), ["layer_norm_eps"]),
    "languages without end": (lambda d: edit(d, lambda v: v.update(n_langs=10**9)), ["lang2id"]),
    "endless digits": (
        lambda d: (d / "config.json").write_text('{"n_layers": ' + "9" * 5000 + "}"),
        ["config.json"],
    ),
    "our record's params": (
        lambda d: edit(d, lambda v: v["xlm"].update(original=record(params=5))),
        ["xlm.original"],
    ),
    "our record's training": (
        lambda d: edit(d, lambda v: v["xlm"].update(original=record(training=5))),
        ["xlm.original"],
    ),
    "deep nesting": (lambda d: edit(d, lambda v: v.update(x=deep(150))), ["levels"]),
    "shard with a null byte": (index_with(**{"pred_layer.proj.bias": "a\0b"}), ["names a file that is not beside it"]),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), ["no weights", "pytorch_model.bin"]),
    "empty weights": (lambda d: (d / "model.safetensors").write_bytes(b""), ["model.safetensors"]),
    "cut weights": (cut, ["model.safetensors"]),
    "other weights": (lambda d: (d / "model.safetensors").write_bytes(bytes(1000)), ["model.safetensors"]),
    "missing": (rewritten(**{"pred_layer.proj.bias": None}), ["missing: pred_layer.proj.bias"]),
    "extra": (rewritten(**{"qa_outputs.bias": torch.zeros(2)}), ["extra: qa_outputs.bias"]),
    "shape": (rewritten(**{"pred_layer.proj.bias": torch.zeros(59)}), ["wrong shape: pred_layer.proj.bias (59,)"]),
    "NaN": (rewritten(**{"pred_layer.proj.bias": torch.full((60,), float("nan"))}), ["not finite", "60 of 60"]),
    "untied copy": (rewritten(**{"pred_layer.proj.weight": torch.zeros(60, 16)}), ["not equal to the word"]),
    "index without a map": (index_without_map, ["names no shards"]),
    "index points outside": (outside, ["names a file that is not beside it", "../elsewhere.safetensors"]),
    "shard missing": (shard_missing, ["model-00002-of-00002.safetensors"]),
    "tensor missing in its shard": (index_with(more="model-00001-of-00002.safetensors"), ["missing: more"]),
    "tensor in another shard": (
        index_with(**{"pred_layer.proj.bias": "model-00002-of-00002.safetensors"}),
        ["pred_layer.proj.bias"],
    ),
    "a pickle that is a list": (pickled_list, ["pytorch_model.bin", "state dict"]),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD.keys())
def test_bad_directories(change: Callable[[Path], object], words: list[str], directory: Path, tmp_path: Path) -> None:
    change(directory)
    with pytest.raises(CheckpointError) as error:
        convert(directory, tmp_path / "target")
    assert str(directory) in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_no_such_model(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", "xlm-no-such-model"):
        with pytest.raises(XLMError, match="No such model"):
            open_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_what_has_no_place_in_a_file(value: object, directory: Path, tmp_path: Path) -> None:
    """Python's JSON reads it, and nothing may write it."""
    edit(directory, lambda values: values.update(mine=value))
    with pytest.raises(XLMError):
        convert(directory, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_refused_and_not_waited_for(directory: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="No such model"):
        open_checkpoint(tmp_path / "pipe")
    (directory / "config.json").unlink()
    os.mkfifo(directory / "config.json")
    with pytest.raises(CheckpointError, match="holds no model"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["a\0b", ""])
def test_names_that_are_no_paths(name: str) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(name)


@pytest.mark.parametrize("header", ["[]", "null", '"text"', "5", '{"x": []}', '{"x": {"shape": 5}}'])
def test_a_safetensors_header_of_another_type(header: str, directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        XLMWithLMHeadModel.from_pretrained(directory)
