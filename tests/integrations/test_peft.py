"""LoRA by peft on the model as it is. Oracle: the low-rank products, added to the weights by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.plain_loop import collate, examples, new_model
from tests.model.small_models import relative_error
from xlm import XLMWithLMHeadModel
from xlm.errors import InputError

peft = pytest.importorskip("peft")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")

RANK, ALPHA = 4, 12
BOUND = 2e-6  # float32 roundings of the same sums in another order


@pytest.fixture
def adapted() -> Any:
    """A model with adapters that five steps have trained, and nothing else."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    model = peft.get_peft_model(new_model(), config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        model(**collate(examples(4))).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(**collate(examples(4))).logits.detach()
    return result


def by_hand(adapted: Any) -> XLMWithLMHeadModel:
    """Return a plain model with the products of the adapters added to its weights."""
    model, weights = new_model().eval(), dict(adapted.named_parameters())
    with torch.no_grad():
        for i, layer in enumerate(model.transformer.layers):
            for name in ("query", "value"):
                adapter = f"base_model.model.transformer.layers.{i}.attention.{name}.lora_"
                product = weights[f"{adapter}B.default.weight"] @ weights[f"{adapter}A.default.weight"]
                layer.attention.get_submodule(name).weight += product * (ALPHA / RANK)
    return model


def test_trained_saved_and_merged_it_gives_the_same_logits(adapted: Any, tmp_path: Path) -> None:
    expected = logits(by_hand(adapted))
    assert relative_error(logits(new_model().eval()), expected) > 0.01
    assert relative_error(logits(adapted), expected) < BOUND
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(new_model(), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), logits(adapted))
    merged = again.merge_and_unload()
    assert type(merged) is XLMWithLMHeadModel
    assert relative_error(logits(merged), expected) < BOUND
    merged.save_pretrained(tmp_path / "merged")
    loaded = XLMWithLMHeadModel.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded), logits(merged))


def test_only_the_adapters_were_trained(adapted: Any) -> None:
    before = new_model()
    base = {name.removeprefix("base_model.model."): p for name, p in adapted.named_parameters() if "lora" not in name}
    for name, parameter in base.items():
        assert torch.equal(parameter, before.get_parameter(name.replace("base_layer.", "")))


def test_it_generates_with_the_adapter(adapted: Any) -> None:
    ids = examples(2)[1]["input_ids"][None]
    expected = by_hand(adapted).generate(ids, langs="en", max_new_tokens=5)
    assert torch.equal(adapted.generate(ids, langs="en", max_new_tokens=5), expected)


def test_the_wrapper_for_causal_models_changes_nothing(adapted: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"r": RANK, "target_modules": ["query", "value"], "init_lora_weights": False}
    plain = peft.get_peft_model(new_model(), peft.LoraConfig(**settings))
    torch.manual_seed(0)
    model = peft.get_peft_model(new_model(), peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    assert type(model) is peft.PeftModelForCausalLM
    model(**collate(examples(2))).loss.backward()
    assert torch.equal(logits(model), logits(plain))
    ids = examples(2)[1]["input_ids"][None]
    expected = plain.generate(ids, langs="en", max_new_tokens=5)
    assert torch.equal(model.generate(input_ids=ids, langs="en", max_new_tokens=5), expected)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(new_model(), tmp_path)
    assert type(again) is peft.PeftModelForCausalLM
    assert torch.equal(logits(again.merge_and_unload()), logits(model.merge_and_unload()))


def test_what_would_lose_the_adapter_is_refused(adapted: Any) -> None:
    with pytest.raises(InputError, match="merge"):
        adapted.get_base_model().for_inference()


def test_all_linear_layers_and_whole_modules() -> None:
    config = peft.LoraConfig(r=RANK, target_modules="all-linear", modules_to_save=["ffn_norm"])
    model = peft.get_peft_model(new_model(), config)
    model(**collate(examples(2))).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any("ffn.down.lora_A" in name for name in trained)
    assert any("ffn_norm.modules_to_save" in name for name in trained)
    assert not any("base_layer" in name for name in trained)
