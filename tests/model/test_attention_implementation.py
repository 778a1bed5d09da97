"""``attn_implementation="eager"``, and what only plain operations can do; ablation of heads by a hook.

Oracle: the fused kernels; finite differences; the attention written out for one head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.model.small_models import random_ids, relative_error, small_config, small_model
from xlm import XLMConfig, XLMEncoderDecoderModel, XLMModel, XLMWithLMHeadModel
from xlm.errors import ConfigError
from xlm.model.config import AttnImplementation

IDS, LENGTHS = random_ids(3, 7), torch.tensor([7, 2, 4])
LEFT = (torch.arange(7) < LENGTHS[:, None]).long().flip(1)


def both(**changes: Any) -> tuple[XLMWithLMHeadModel, XLMWithLMHeadModel]:
    fused, eager = (small_model(attn_implementation=name, **changes) for name in ("sdpa", "eager"))
    return fused, eager


@pytest.mark.parametrize("inputs", [{}, {"lengths": LENGTHS}, {"attention_mask": LEFT}], ids=["plain", "right", "left"])
@pytest.mark.parametrize("causal", [True, False])
def test_logits_and_gradients_are_equal(causal: bool, inputs: dict[str, Any]) -> None:
    gradients = []
    for model in both(causal=causal):
        output = model(IDS, langs="en", labels=IDS, **inputs)
        assert output.loss is not None
        torch.autograd.backward(output.loss)
        assert output.attentions is None
        gradients.append([output.logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for found, expected in zip(*gradients, strict=True):
        assert float((found - expected).abs().max()) < 1e-5


def test_fused_kernels_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = F.scaled_dot_product_attention

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return fused(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    for model in both():
        model(IDS, langs="en")
        calls.append(0)
    assert calls == [1, 1, 0, 0]  # one call a layer, then none


def test_with_a_cache_and_in_translation() -> None:
    fused, eager = both()
    options: dict[str, Any] = {"langs": "en", "max_new_tokens": 6, "num_beams": 2}
    assert torch.equal(fused.generate(IDS, **options), eager.generate(IDS, **options))
    translators = []
    for name in get_args(AttnImplementation):
        torch.manual_seed(0)
        translators.append(XLMEncoderDecoderModel(small_config(attn_implementation=name)).eval())
    with torch.no_grad():
        found, expected = (m(IDS, IDS, langs="en", decoder_langs="de", lengths=LENGTHS).logits for m in translators)
    assert relative_error(found, expected) < 2e-6


def test_a_gradient_of_a_gradient() -> None:
    """Of the squared norm of the gradient with respect to the embeddings, against central differences in float64."""
    model = small_model(dtype=torch.float64, attn_implementation="eager")

    def penalty(embeds: Tensor) -> Tensor:
        loss = model(inputs_embeds=embeds, langs="en", labels=IDS).loss
        assert loss is not None
        (gradient,) = torch.autograd.grad(loss, [embeds], create_graph=True)
        return gradient.square().sum()

    embeds = model.transformer.embeddings.word(IDS).detach().requires_grad_()
    (found,) = torch.autograd.grad(penalty(embeds), [embeds])
    direction = torch.randn(embeds.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-5
    moved = [penalty((embeds + sign * step * direction).detach().requires_grad_()) for sign in (1, -1)]
    slope = float((moved[0] - moved[1]).detach()) / (2 * step)
    assert float((found * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_forward_mode() -> None:
    model = small_model(dtype=torch.float64, attn_implementation="eager").requires_grad_(False)
    embeds = model.transformer.embeddings.word(IDS)
    direction = torch.randn(embeds.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def logits(embeds: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, langs="en", lengths=LENGTHS).logits

    found = torch.func.jvp(logits, (embeds,), (direction,))[1]
    expected = (logits(embeds + 1e-6 * direction) - logits(embeds - 1e-6 * direction)) / 2e-6
    assert relative_error(found, expected) < 1e-7


def test_from_pretrained_and_what_is_saved(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "a")
    for cls in (XLMModel, XLMWithLMHeadModel):
        assert cls.from_pretrained(tmp_path / "a").config.attn_implementation == "sdpa"
        model = cls.from_pretrained(tmp_path / "a", attn_implementation="eager")
        assert model.transformer.layers[0].attention.implementation == "eager"
    model.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["flash_attention_2", None, 1, True])
def test_other_implementations_are_refused(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="attn_implementation"):
        small_config(attn_implementation=name)
    assert XLMConfig(vocab_size=20, emb_dim=4, n_layers=1, n_heads=1).attn_implementation == "sdpa"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_a_hook_removes_a_head(implementation: Any) -> None:
    """The columns of a head in the input of the output projection; oracle: the projection without these columns."""
    model, removed, H = small_model(attn_implementation=implementation), 1, 8

    def remove(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (heads_BTD,) = inputs
        kept_BTNH = heads_BTD.view(3, 7, 3, H).index_fill(2, torch.tensor([removed]), 0)
        return (kept_BTNH.flatten(2),)

    output = model.transformer.layers[1].attention.output
    handle = output.register_forward_pre_hook(remove)
    found = model(IDS, langs="en").logits
    handle.remove()
    whole = model(IDS, langs="en").logits
    output.weight[:, removed * H : (removed + 1) * H] = 0
    torch.testing.assert_close(found, model(IDS, langs="en").logits)
    assert relative_error(found, whole) > 1e-3
