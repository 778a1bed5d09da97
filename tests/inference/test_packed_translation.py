"""Packed translation models.

Oracle: the original model, as for packed language models. Translations are compared on models where float32 decides
each word by more than the order of sums.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.inference.test_packed_model import ONE_STEP, ORDER_OF_SUMS, REFUSED, _round
from tests.inference.test_plain_layers import Lora, OtherAttention, _of, _patch, _replace, doubled_output
from tests.model.small_models import random_ids, relative_error, requested
from tests.model.test_seq2seq import KINDS, languages, small_translator, sources
from xlm.errors import InputError
from xlm.inference import packed_linear, packed_model
from xlm.inference.loading import pack_where_faster
from xlm.inference.packed_linear import ROUNDINGS
from xlm.model.attention import CrossAttention
from xlm.model.seq2seq import XLMEncoderDecoderModel

CROSS = "decoder.transformer.layers.1.cross_attention"


def _logits(model: XLMEncoderDecoderModel) -> Tensor:
    ids, lengths = sources((4, 9, 7))
    logits: Tensor = model(ids, random_ids(3, 8), lengths=lengths, **languages(model)).logits
    return logits


def _rounded(model: XLMEncoderDecoderModel, weights: str) -> XLMEncoderDecoderModel:
    """A float32 copy with rounded matrices, head included, but without rounded embeddings."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = _round(module.weight.data, weights)
    head = model.decoder.transformer.embeddings.word.weight.data.clone()
    model.decoder.logits = lambda hidden: torch.nn.functional.linear(  # type: ignore[method-assign]
        hidden, _round(head, weights), model.decoder.head.get_parameter("bias")
    )
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_float32_gives_the_same_numbers(kind: str) -> None:
    model = small_translator(seed=1, **KINDS[kind])
    fast = model.for_inference("float32")
    ids, lengths = sources((4, 9, 7))
    targets = random_ids(3, 8)
    found, expected = (
        each(
            ids,
            targets,
            lengths=lengths,
            decoder_lengths=torch.tensor([8, 2, 5]),
            labels=targets,
            output_attentions=True,
            **languages(model),
        )
        for each in (fast, model)
    )
    assert relative_error(found.logits, expected.logits) < ORDER_OF_SUMS
    assert relative_error(found.encoder_hidden_state, expected.encoder_hidden_state) < ORDER_OF_SUMS
    assert relative_error(requested(found.cross_attentions)[1], requested(expected.cross_attentions)[1]) < ORDER_OF_SUMS
    assert float(requested(found.loss)) == pytest.approx(float(requested(expected.loss)), abs=ORDER_OF_SUMS)
    assert (fast.weights, fast.dtype, fast.config) == ("float32", torch.float32, model.config)


@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_packed_weights_are_only_rounded(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "multiplies_bfloat16", lambda: False)
    model = small_translator(seed=2)
    found, expected = (_logits(each) for each in (model.for_inference(weights), _rounded(model, weights)))
    assert relative_error(found, expected) < ORDER_OF_SUMS


@pytest.mark.parametrize(("weights", "bound"), [("bfloat16", 0.02), ("float16", 0.002), ("int8", 0.1)])
def test_error_against_float32(weights: str, bound: float) -> None:
    """The bounds of packed language models."""
    model = small_translator(seed=4)
    assert 1e-5 < relative_error(_logits(model.for_inference(weights)), _logits(model)) < bound


@pytest.mark.parametrize("kind", ["plain", "without languages", "untied", "adaptive softmax"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_translations_are_those_of_the_model(kind: str, beams: int, seed: int) -> None:
    model = small_translator(seed=seed, eos=2.0, **KINDS[kind])
    ids, lengths = sources((4, 9, 7, 3), seed=seed)
    options: dict[str, Any] = {"lengths": lengths, "num_beams": beams, "num_return_sequences": beams}
    found, expected = (
        each.continuations(ids, **options, **languages(model)) for each in (model.for_inference("float32"), model)
    )
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.stop for each in found] == [each.stop for each in expected]
    for each, other in zip(found, expected, strict=True):
        assert each.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert each.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.parametrize("weights", ROUNDINGS)
@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_step_by_step_gives_the_log_probabilities_of_one_pass(weights: str, beams: int) -> None:
    """The bounds are those of cached and uncached language models, of the largest logit."""
    fast = small_translator(seed=3, eos=2.0).for_inference(weights)
    ids, lengths = sources((4, 9, 7))
    for row, best in enumerate(fast.continuations(ids, lengths=lengths, num_beams=beams, **languages(fast))):
        targets = torch.tensor([[1, *best.tokens]])
        logits_TV = fast(ids[row : row + 1, : lengths[row]], targets[:, :-1], **languages(fast)).logits[0]
        expected = logits_TV.log_softmax(-1).gather(1, targets[0, 1:, None])[:, 0]
        bound = {"int8": ONE_STEP, "bfloat16": 0.02}.get(weights, ORDER_OF_SUMS) * float(logits_TV.abs().max())
        assert best.logprobs == pytest.approx(expected.tolist(), abs=2 * bound)


@pytest.mark.parametrize("weights", ROUNDINGS)
def test_autocast_changes_nothing(weights: str) -> None:
    fast = small_translator(seed=2, eos=2.0).for_inference(weights)
    (ids, lengths), expected = sources((4, 9)), _logits(fast)
    words = fast.generate(ids, lengths=lengths, **languages(fast))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(_logits(fast), expected)
        assert torch.equal(fast.generate(ids, lengths=lengths, **languages(fast)), words)


def test_the_model_is_left_alone() -> None:
    model = small_translator(seed=6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    fast = model.for_inference()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in fast.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for half in ("encoder", "decoder"):
        ours, theirs = (getattr(each, half).transformer.embeddings.word.weight for each in (fast, model))
        assert ours is not theirs
        assert ours.data_ptr() == theirs.data_ptr()


@pytest.mark.parametrize(("what", "arguments"), REFUSED, ids=str)
def test_it_only_infers(what: str, arguments: tuple[Any, ...]) -> None:
    fast = small_translator().for_inference()
    for each in (fast, fast.encoder, fast.decoder):
        with pytest.raises(InputError, match="is not possible on a packed model"):
            getattr(each, what)(*arguments)
    assert not fast.eval().training


def test_the_packed_encoder_has_no_head() -> None:
    fast = small_translator().for_inference()
    assert fast.encoder.hidden(random_ids(1, 4), langs="en").shape == (1, 4, 24)
    with pytest.raises(InputError, match="encoder of a packed translation model has no head"):
        fast.encoder(random_ids(1, 4), langs="en")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch's own use of it for int8
@pytest.mark.parametrize("weights", ROUNDINGS)
def test_copies_give_the_same_numbers(weights: str) -> None:
    fast = small_translator(seed=3).for_inference(weights)
    expected = _logits(fast)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(_logits(copied), expected)
        assert copied.weights == weights


def test_it_is_packed_where_that_is_faster() -> None:
    model = small_translator()
    assert pack_where_faster(model, dtype="float32", few_rows=False) is model
    assert pack_where_faster(model, dtype="int8", few_rows=False).weights == "int8"


def test_what_cannot_be_prepared() -> None:
    with pytest.raises(InputError, match="int8"):
        small_translator().for_inference("int4")
    with pytest.raises(InputError, match="CPU"):
        small_translator().to("meta").for_inference()


class OtherCrossAttention(CrossAttention):
    def project_source(self, hidden_GSD: Tensor) -> tuple[Tensor, Tensor]:
        key_GSD, value_GSD = super().project_source(hidden_GSD)
        return key_GSD, value_GSD * 2


class OtherTranslator(XLMEncoderDecoderModel):
    def generate(self, *args: Any, **options: Any) -> Tensor:
        return super().generate(*args, **options).flip(0)


CHANGES: dict[str, tuple[str, str, Any]] = {
    # name: where, part of what is found, change to the model
    "lora": (f"{CROSS}.query", "Lora in place of Linear", _replace(f"{CROSS}.query", Lora)),
    "another cross-attention": (CROSS, "overrides project_source", _replace(CROSS, _of(OtherCrossAttention))),
    "another attention": (
        "encoder.transformer.layers.0.attention",
        "overrides project",
        _replace("encoder.transformer.layers.0.attention", _of(OtherAttention)),
    ),
    "a hook": (
        f"{CROSS}_norm",
        "doubled_output",
        lambda model: model.get_submodule(f"{CROSS}_norm").register_forward_hook(doubled_output),
    ),
    "a patched half": ("encoder", "its own forward", lambda model: _patch("forward")(model.encoder)),
    "another model": ("OtherTranslator", "overrides generate", _of(OtherTranslator)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_packing_refuses_what_it_would_leave_out(change: str) -> None:
    where, found, change_model = CHANGES[change]
    model = small_translator(seed=1)
    change_model(model)
    with pytest.raises(InputError, match="merge_and_unload") as caught:
        model.for_inference()
    assert caught.value.where == where
    assert found in str(caught.value.found)


def test_a_language_model_is_not_packed_as_a_translator() -> None:
    with pytest.raises(InputError, match="plain layers") as caught:
        packed_model.prepare_for_inference(small_translator().decoder)
    assert "cross_attention" in str(caught.value.where)
