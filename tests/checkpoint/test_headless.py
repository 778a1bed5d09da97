"""Directories of models without the head of a language model, read and written.

Oracle: live transformers, which writes and opens such directories.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, small_config, small_model
from xlm import XLMModel, XLMWithLMHeadModel
from xlm.errors import CheckpointError, WriteError, XLMWarning

transformers = pytest.importorskip("transformers")

IDS = random_ids(2, 5)
BOUND = 2e-6


def their_config(kind: str = "XLM", **changes: Any) -> Any:
    small = {"vocab_size": 61, "emb_dim": 24, "n_layers": 2, "n_heads": 3, "max_position_embeddings": 16}
    return getattr(transformers, f"{kind}Config")(**{**small, "n_langs": 2, "causal": True, **changes})


def write_theirs(directory: Path, name: str, **changes: Any) -> Any:
    """Write a random model of transformers, and return its network without the head."""
    torch.manual_seed(0)
    kind = "Flaubert" if name.startswith("Flaubert") else "XLM"
    model = getattr(transformers, name)(their_config(kind, **changes)).eval()
    model.save_pretrained(directory)
    return model if name.endswith("Model") and not name.endswith("HeadModel") else model.transformer


def hidden_states(model: Any, ids: Tensor = IDS, **inputs: Any) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = model(ids, langs=torch.ones_like(ids), **inputs).last_hidden_state
    return hidden


LEFT_OUT = {
    "XLMModel": "",
    "XLMWithLMHeadModel": "",
    "XLMForSequenceClassification": "sequence_summary.summary.bias, sequence_summary.summary.weight",
    "XLMForTokenClassification": "classifier.bias, classifier.weight",
    "FlaubertModel": "",
    "FlaubertForSequenceClassification": "sequence_summary.summary.bias, sequence_summary.summary.weight",
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_the_network_of_any_model(name: str, tmp_path: Path) -> None:
    theirs = write_theirs(tmp_path, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = XLMModel.from_pretrained(tmp_path, causal=True)
    assert relative_error(hidden_states(ours), hidden_states(theirs)) < BOUND
    messages = [str(w.message) for w in caught if issubclass(w.category, XLMWarning)]
    assert len(messages) == bool(LEFT_OUT[name])
    if messages:
        assert f"{LEFT_OUT[name]} are left out" in messages[0]
        assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["FlaubertModel", "FlaubertWithLMHeadModel"])
def test_flaubert_is_bidirectional_unless_it_says_otherwise(name: str, tmp_path: Path) -> None:
    for causal in (False, True):
        theirs = write_theirs(tmp_path, name, causal=causal, layer_norm_eps=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = XLMModel.from_pretrained(tmp_path)
        assert ours.config.causal == causal
        assert relative_error(hidden_states(ours), hidden_states(theirs)) < BOUND
    write_theirs(tmp_path, name, pre_norm=True)
    with pytest.raises(CheckpointError, match="pre_norm"):
        XLMModel.from_pretrained(tmp_path)


def test_a_language_model_needs_its_head(tmp_path: Path) -> None:
    for name in ("XLMModel", "XLMForSequenceClassification"):
        write_theirs(tmp_path / name, name)
        with pytest.raises(CheckpointError, match="no head of a language model") as caught:
            XLMWithLMHeadModel.from_pretrained(tmp_path / name, causal=True)
        assert "XLMModel.from_pretrained" in str(caught.value.remedy)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bidirectional": {"causal": False},
    "untied, relu, sinusoidal": {"share_inout_emb": False, "gelu_activation": False, "sinusoidal_embeddings": True},
    "monolingual": {"n_langs": 1},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_opens_there_and_here(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = XLMModel(small_config(**KINDS[kind])).eval()
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["architectures"] == ["XLMModel"]
    theirs, info = transformers.XLMModel.from_pretrained(tmp_path, causal=ours.config.causal, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert set(theirs.state_dict()) == set(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert relative_error(ours(IDS, langs=0)[0], theirs(IDS, langs=torch.zeros_like(IDS))[0]) < BOUND
    again = XLMModel.from_pretrained(tmp_path)
    assert again.config == ours.config.replace(embed_init_std=again.config.embed_init_std)
    for (name, found), weight in zip(again.state_dict().items(), ours.state_dict().values(), strict=True):
        assert torch.equal(found, weight), name


@pytest.mark.filterwarnings("ignore:.*are left out")
@pytest.mark.parametrize("change", ["missing", "extra", "shape", "NaN"])
@pytest.mark.parametrize("name", ["XLMModel", "XLMForSequenceClassification"])
def test_damage_inside_the_network_is_refused(name: str, change: str, tmp_path: Path) -> None:
    write_theirs(tmp_path, name)
    prefix = "" if name == "XLMModel" else "transformer."
    weights = load_file(tmp_path / "model.safetensors")
    damaged = f"{prefix}attentions.1.q_lin.weight"
    if change == "missing":
        del weights[damaged]
    elif change == "extra":
        damaged = f"{prefix}attentions.0.memory.weight"
        weights[damaged] = torch.zeros(3)
    elif change == "shape":
        weights[damaged] = weights[damaged][1:].clone()
    else:
        weights[damaged][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        XLMModel.from_pretrained(tmp_path, causal=True)
    assert damaged.removeprefix("transformer.") in str(caught.value.found)


def test_a_subclass_with_other_weights_is_not_saved_as_the_network_alone(tmp_path: Path) -> None:
    class Classifier(XLMModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.classify = torch.nn.Linear(config.emb_dim, 2)

    with pytest.raises(WriteError, match=r"extra: classify"):
        Classifier(small_config()).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_network_of_a_language_model_saved_alone(tmp_path: Path) -> None:
    model = small_model()
    model.save_pretrained(tmp_path / "model")
    body = XLMModel.from_pretrained(tmp_path / "model")
    body.save_pretrained(tmp_path / "body")
    again = XLMModel.from_pretrained(tmp_path / "body")
    with torch.no_grad():
        assert torch.equal(again(IDS, langs="en").last_hidden_state, model.hidden(IDS, langs="en"))
