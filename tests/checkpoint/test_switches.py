"""Settings that change the network: refused by name, or honoured.

Oracle: FlauBERT's own answers where the recorded references are; a layer norm written out with its epsilon.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.checkpoint.original_files import demo_data, save
from xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.errors import CheckpointError
from xlm.parity.peer import against_transformers
from xlm.parity.reference import against_reference

ON: dict[str, Any] = {
    "use_memory": True,
    "pre_norm": True,
    "roberta_mode": True,
    "spans_emb_encoder": True,
    "lang_specific_LN": True,
    "lang_specific_FFN": 1,
    "lang_specific_ATTN": "yes",
    "lang_specific_ADPT": np.True_,
    "pruned_heads": {"0": [1]},
    "quantization_config": {"bits": 4},
}
OFF: dict[str, Any] = {"pre_norm": False, "use_memory": 0, "pruned_heads": {}, "roberta_mode": None}
OF_TRAINING = {"layerdrop": 0.2}
"""FlauBERT drops whole layers in training; what a trained model computes does not depend on it."""


def with_params(directory: Path, **params: Any) -> Path:
    data = demo_data(directory)
    data["params"] |= params
    return save(data, directory / "changed.pth")


def with_config(directory: Path, **values: Any) -> Path:
    XLMWithLMHeadModel(XLMConfig(vocab_size=60, emb_dim=16, n_layers=1, n_heads=2)).save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return directory


@pytest.mark.parametrize(("name", "value"), ON.items(), ids=ON.keys())
def test_what_is_on_in_params_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    path = with_params(tmp_path, **{name: value})
    with pytest.raises(CheckpointError, match=f"(?s)not implemented.*{path}, params.*{name} = "):
        XLMWithLMHeadModel.from_pretrained(path)
    with pytest.raises(CheckpointError, match=f"{name} = "):
        convert(path, tmp_path / "target")
    with pytest.raises(CheckpointError, match=f"{name} = "):
        XLMTokenizer.from_pretrained(path, codes=tmp_path / "codes")


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, v in ON.items() if not isinstance(v, np.bool_)])
def test_what_is_on_in_a_configuration_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    directory = with_config(tmp_path / "model", **{name: value})
    with pytest.raises(CheckpointError, match=f"(?s)not implemented.*config.json.*{name} = "):
        XLMWithLMHeadModel.from_pretrained(directory)
    # transformers ignores these settings in a model of type xlm: the two programs would agree on wrong numbers.
    with pytest.raises(CheckpointError, match=f"{name} = "):
        against_transformers(directory)


def test_all_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        XLMWithLMHeadModel.from_pretrained(with_params(tmp_path, **ON))
    assert all(f"{name} = " in str(error.value) for name in ON)


def test_what_is_off_is_ignored(tmp_path: Path) -> None:
    expected = XLMWithLMHeadModel.from_pretrained(with_params(tmp_path)).config
    assert XLMWithLMHeadModel.from_pretrained(with_params(tmp_path, **OFF, **OF_TRAINING)).config == expected
    XLMWithLMHeadModel.from_pretrained(with_config(tmp_path / "model", **OFF, **OF_TRAINING))


@pytest.mark.parametrize("value", [np.array([0.0, 1.0]), torch.ones(3)])
def test_a_value_that_is_neither_on_nor_off_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pre_norm = "):
        XLMWithLMHeadModel.from_pretrained(with_params(tmp_path, pre_norm=value))


def test_our_own_key_does_not_smuggle_one_in(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pre_norm = True"):
        convert(with_params(tmp_path, xlm_config={"pre_norm": True}), tmp_path / "target")


def logits(path: Path) -> Tensor:
    ids = torch.arange(14, 40)[None]
    with torch.inference_mode():
        found: Tensor = XLMWithLMHeadModel.from_pretrained(path)(ids, langs=1).logits
    return found


def test_epsilon_of_the_parameters_is_that_of_every_norm(tmp_path: Path) -> None:
    plain, changed = with_params(tmp_path), tmp_path / "epsilon.pth"
    data = torch.load(plain, weights_only=False)
    data["params"]["layer_norm_eps"] = 0.5
    save(data, changed)
    model = XLMWithLMHeadModel.from_pretrained(changed)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 5
    assert all(norm.eps == 0.5 for norm in norms)
    assert not torch.allclose(logits(changed), logits(plain), atol=0.01)
    convert(changed, tmp_path / "there")
    assert json.loads((tmp_path / "there" / "config.json").read_text())["layer_norm_eps"] == 0.5
    assert torch.equal(logits(tmp_path / "there"), logits(changed))
    packed = model.for_inference()(torch.arange(14, 40)[None], langs=1).logits
    torch.testing.assert_close(packed, logits(changed), rtol=0, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"(?s)cannot represent.*layer_norm_eps = 0\.5"):
        convert(tmp_path / "there", tmp_path / "back.pth", to="original")


def test_epsilon_agrees_with_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    convert(with_params(tmp_path, layer_norm_eps=0.5), tmp_path / "there")
    report = against_transformers(tmp_path / "there")
    assert report.holds, str(report)


@pytest.mark.parametrize("value", [None, "1e-6", 0.0, -1.0, float("nan")])
def test_no_epsilon(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="layer_norm_eps"):
        XLMWithLMHeadModel.from_pretrained(with_params(tmp_path, layer_norm_eps=value))


def test_flaubert_pre_norm_is_refused(reference: Path, tmp_path: Path) -> None:
    path = reference / "cases" / "pre_norm.pth"
    with pytest.raises(CheckpointError, match="pre_norm = True"):
        convert(path, tmp_path / "target")
    with pytest.raises(CheckpointError, match="pre_norm = True"):
        against_transformers(path)


@pytest.mark.parametrize("converted", [False, True])
def test_flaubert_epsilon(converted: bool, reference: Path, tmp_path: Path) -> None:
    source = reference / "cases" / "layer_norm_eps_1e-6.pth"
    if converted:
        convert(source, tmp_path / "there")
        source = tmp_path / "there"
    recorded = reference / "cases" / "layer_norm_eps_1e-6.reference.safetensors"
    report = against_reference(source, recorded)
    assert report.holds, str(report)
    assert [comparison.name for comparison in report.comparisons] == ["bidirectional.logits"]
    if converted:
        with_another = json.loads((source / "config.json").read_text()) | {"layer_norm_eps": 1e-12}
        (source / "config.json").write_text(json.dumps(with_another))
        assert not against_reference(source, recorded).holds
