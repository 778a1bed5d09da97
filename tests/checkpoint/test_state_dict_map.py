"""Oracle: the state dict of our own model for one side, the published file's header for the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlm import XLMConfig
from xlm.checkpoint.state_dict_map import ORIGINAL, TRANSFORMERS, KeyTable
from xlm.checkpoint.tensors import empty_model

CONFIGS = {
    "published": XLMConfig.clm_ende_1024(),
    "untied": XLMConfig.clm_ende_1024(share_inout_emb=False),
    "adaptive": XLMConfig.clm_ende_1024(asm=True, asm_cutoffs=(1000, 5000)),
    "monolingual": XLMConfig(vocab_size=50, emb_dim=8, n_layers=12, n_heads=2),
}


@pytest.mark.parametrize("table", [ORIGINAL, TRANSFORMERS], ids=["original", "transformers"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_name_goes_there_and_back(table: KeyTable, config: XLMConfig) -> None:
    names = list(empty_model(config).state_dict())
    theirs = [table.theirs(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert [table.ours(name) for name in theirs] == names


def test_published_names(reference: Path) -> None:
    header = json.loads((reference / "published/xlm-clm-ende-1024/safetensors_header.json").read_text())
    published = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    ours = empty_model(XLMConfig.clm_ende_1024()).state_dict()
    assert {TRANSFORMERS.theirs(name): tuple(tensor.shape) for name, tensor in ours.items()} == published


@pytest.mark.parametrize(
    "name",
    ["", "embeddings", "embeddings.weight.x", "attentions.q_lin.weight", "attentions.00.q_lin.weight", "attentions.²."
     "q_lin.weight", "attentions.{}.q_lin.weight", "pred_layer.proj.tail.0.weight"],
)  # fmt: skip
def test_other_names_are_not_ours(name: str) -> None:
    assert ORIGINAL.ours(name) is None
