"""The encoder-decoder model: its two halves, forward, decoding, errors.

Oracles: the language models that the halves start from, ``slow_translation``, and a forward of each row alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.slow_translation import SlowTranslation
from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.model.attention import Source
from xlm.model.decoding.options import DecodingOptions
from xlm.model.seq2seq import AtLimit, XLMEncoderDecoderModel

BOUND = 2e-6
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without languages": {"n_langs": 1, "sinusoidal_embeddings": True, "gelu_activation": False},
    "untied": {"share_inout_emb": False},
    "adaptive softmax": {"asm": True, "asm_cutoffs": (20, 40)},
}


def small_translator(*, seed: int = 0, eos: float = 0.0, **changes: Any) -> XLMEncoderDecoderModel:
    """A random model in evaluation mode; ``eos`` is added to the bias of ``</s>``, so that sentences end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMEncoderDecoderModel(small_config(**changes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
            if not model.config.asm:
                model.decoder.head.get_parameter("bias")[1] += eos
    return model.requires_grad_(False).eval()


_MODELS = {kind: small_translator(eos=2.0, **changes) for kind, changes in KINDS.items()}


def languages(model: XLMEncoderDecoderModel) -> dict[str, Any]:
    return {"langs": "en", "decoder_langs": "de"} if model.config.has_language_embeddings else {}


def sources(lengths: tuple[int, ...], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sentences of these lengths from ``</s>`` to ``</s>``, padded on the right, and the lengths."""
    ids = torch.full((len(lengths), max(lengths)), 2)
    words = random_ids(len(lengths), max(lengths), seed=seed)
    for row, length in enumerate(lengths):
        ids[row, :length] = words[row, :length]
        ids[row, 0] = ids[row, length - 1] = 1
    return ids, torch.tensor(lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_source_the_decoder_is_the_language_model(kind: str) -> None:
    model, lm = small_translator(**KINDS[kind]), small_model(seed=3, **KINDS[kind])
    missing, unexpected = model.decoder.load_state_dict(lm.state_dict(), strict=False)
    assert not unexpected
    assert all("cross_attention" in name for name in missing)
    ids = random_ids(3, 9)
    langs = "en" if model.config.has_language_embeddings else None
    assert torch.equal(model.decoder(ids, langs=langs).logits, lm(ids, langs=langs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_the_bidirectional_model(kind: str) -> None:
    model = _MODELS[kind]
    lm = small_model(seed=3, causal=False, **KINDS[kind])
    lm.load_state_dict(model.encoder.state_dict())
    ids, lengths = sources((4, 9, 7))
    langs = "en" if model.config.has_language_embeddings else None
    output = model(ids, random_ids(3, 5), lengths=lengths, **languages(model))
    assert torch.equal(output.encoder_hidden_state, lm.hidden(ids, langs=langs, lengths=lengths))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_others_or_on_padding(kind: str) -> None:
    model = _MODELS[kind]
    (source, source_lengths), (target, target_lengths) = sources((4, 9, 7)), sources((8, 3, 6), seed=1)
    together = model(
        source, target, lengths=source_lengths, decoder_lengths=target_lengths, labels=target, **languages(model)
    )
    nats = 0.0
    for row, (S, T) in enumerate(zip(source_lengths.tolist(), target_lengths.tolist(), strict=True)):
        ids = target[row : row + 1, :T]
        alone = model(source[row : row + 1, :S], ids, labels=ids, **languages(model))
        assert relative_error(together.logits[row, :T], alone.logits[0]) < BOUND
        assert together.encoder_hidden_state[row, S:].abs().sum() == 0
        assert alone.loss is not None
        nats += float(alone.loss) * (T - 1)
    assert together.loss is not None
    assert float(together.loss) == pytest.approx(nats / int((target_lengths - 1).sum()), rel=1e-5)


def test_attention_weights_and_hidden_states() -> None:
    model = _MODELS["plain"]
    (source, source_lengths), (target, target_lengths) = sources((4, 9)), sources((8, 3), seed=1)
    inputs = {"lengths": source_lengths, "decoder_lengths": target_lengths, **languages(model)}
    output = model(source, target, output_attentions=True, output_hidden_states=True, **inputs)
    assert relative_error(output.logits, model(source, target, **inputs).logits) < BOUND
    weights = requested(output.cross_attentions)[1]
    assert weights.shape == (2, 3, 8, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 8))
    assert weights[0, :, :, 4:].abs().max() == 0
    for states in (output.encoder_hidden_states, output.decoder_hidden_states):
        assert len(requested(states)) == 3
    assert output[0] is output.logits


@st.composite
def _translations(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": draw(st.sampled_from(["plain", "without languages", "untied"])),
        "lengths": tuple(draw(st.lists(st.integers(3, 9), min_size=1, max_size=4))),
        "seed": draw(st.integers(0, 99)),
        "max_length": draw(st.integers(2, 8)),
        "original": draw(st.booleans()),
    }


@given(case=_translations())
@settings(max_examples=40)
def test_greedy_equals_the_plain_loop(case: dict[str, Any]) -> None:
    model, (ids, lengths) = _MODELS[case["kind"]], sources(case["lengths"], seed=case["seed"])
    at_limit: AtLimit = "original" if case["original"] else "keep"
    result = model.continuations(
        ids, lengths=lengths, max_length=case["max_length"], at_limit=at_limit, **languages(model)
    )
    assert [list(translation.tokens) for translation in result] == [
        slow.greedy(original=case["original"]) for slow in _slow(model, ids, lengths, case["max_length"])
    ]


@given(
    case=_translations(),
    width=st.integers(2, 4),
    length_penalty=st.sampled_from([1.0, 0.6, 0.0, 2.0]),
    early=st.booleans(),
)
@settings(max_examples=60)
def test_beams_equal_the_plain_loop(case: dict[str, Any], width: int, length_penalty: float, early: bool) -> None:
    model, (ids, lengths) = _MODELS[case["kind"]], sources(case["lengths"], seed=case["seed"])
    result = model.continuations(
        ids,
        lengths=lengths,
        max_length=case["max_length"],
        at_limit="original" if case["original"] else "keep",
        num_beams=width,
        num_return_sequences=width,
        length_penalty=length_penalty,
        early_stopping=early,
        **languages(model),
    )
    expected = [
        (row, *hypothesis)
        for row, slow in enumerate(_slow(model, ids, lengths, case["max_length"]))
        for hypothesis in slow.beams(width, length_penalty=length_penalty, early=early, original=case["original"])
    ]
    assert [(best.prompt, best.tokens) for best in result] == [(row, target) for row, _, target in expected]
    assert [best.score for best in result] == pytest.approx([score for _, score, _ in expected], rel=1e-5)


def _slow(model: XLMEncoderDecoderModel, ids: Tensor, lengths: Tensor, max_length: int) -> list[SlowTranslation]:
    return [
        SlowTranslation(
            model=model,
            source=row[:length].tolist(),
            langs=(1, 0) if model.config.has_language_embeddings else None,
            max_length=max_length,
        )
        for row, length in zip(ids, lengths.tolist(), strict=True)
    ]


def test_generate_returns_whole_sentences() -> None:
    model = _MODELS["plain"]
    ids, lengths = sources((4, 9, 7))
    whole = model.generate(ids, lengths=lengths, **languages(model))
    parts = model.continuations(ids, lengths=lengths, **languages(model))
    for row, part in zip(whole.tolist(), parts, strict=True):
        assert row == [1, *part.tokens, *[2] * (len(row) - 1 - len(part.tokens))]


def test_the_default_limit_depends_on_the_source_of_the_row_alone() -> None:
    model = small_translator(eos=-100.0, max_position_embeddings=40)
    ids, lengths = sources((4, 9))
    for options in (None, DecodingOptions()):
        result = model.continuations(ids, lengths=lengths, options=options, **languages(model))
        assert [(len(translation.tokens), translation.stop) for translation in result] == [
            (15, "max_length"),  # with the first </s>, 16 = 1.5 * 4 + 10
            (22, "max_length"),
        ]
    short = small_translator(eos=-100.0)
    result = short.continuations(ids, lengths=lengths, max_length=30, **languages(model))
    assert {(len(translation.tokens), translation.stop) for translation in result} == {(16, "positions")}
    result = short.continuations(ids, lengths=lengths, max_new_tokens=5, **languages(model))
    assert {(len(translation.tokens), translation.stop) for translation in result} == {(5, "max_new_tokens")}


def test_as_many_new_tokens_as_a_language_model_makes_by_default_are_a_limit_like_any_other() -> None:
    model = small_translator(eos=-100.0, max_position_embeddings=80)
    ids, lengths = sources((4, 9))
    given: list[dict[str, Any]] = [{"max_new_tokens": 64}, {"options": DecodingOptions(max_new_tokens=64)}]
    for options in given:
        result = model.continuations(ids, lengths=lengths, **options, **languages(model))
        assert {(len(translation.tokens), translation.stop) for translation in result} == {(64, "max_new_tokens")}


def test_each_row_has_its_own_target_language() -> None:
    model = _MODELS["plain"]
    ids, lengths = sources((7, 7, 5))
    together = model.continuations(ids, lengths=lengths, langs=["en", "de", "en"], decoder_langs=["de", "en", "en"])
    for row, (source, target) in enumerate([("en", "de"), ("de", "en"), ("en", "en")]):
        (alone,) = model.continuations(
            ids[row : row + 1], lengths=lengths[row : row + 1], langs=source, decoder_langs=target
        )
        assert alone.tokens == together[row].tokens


def test_samples_depend_on_their_seed_alone() -> None:
    model = _MODELS["plain"]
    ids, lengths = sources((4, 9, 7))
    together = model.continuations(
        ids, lengths=lengths, do_sample=True, num_return_sequences=3, seed=5, **languages(model)
    )
    assert len({sample.tokens for sample in together}) > 3
    for sample in together:
        row = slice(sample.prompt, sample.prompt + 1)
        (alone,) = model.continuations(
            ids[row, : lengths[sample.prompt]], do_sample=True, seed=sample.seed, **languages(model)
        )
        assert alone.tokens == sample.tokens


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.data())
def test_a_source_follows_its_target_rows(rows: list[int], data: st.DataObject) -> None:
    """Oracle: the source of each target row, kept in a list."""
    source = Source(torch.arange(4.0)[:, None, None], torch.ones(4, 1, dtype=torch.bool))
    followed = [0, 1, 2, 3]
    for _ in range(4):
        rows = [row % len(followed) for row in rows]
        source.select_target_rows(rows)
        followed = [followed[row] for row in rows]
        assert source.hidden.flatten().repeat_interleave(source.target_rows).tolist() == followed
        rows = data.draw(st.lists(st.integers(0, len(followed) - 1), min_size=1, max_size=8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 1}, "max_length out of range"),
        ({"max_length": True}, "max_length out of range"),
        ({"max_length": 5, "max_new_tokens": 5}, "both given"),
        ({"max_length": 5, "options": DecodingOptions(max_new_tokens=64)}, "both given"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"at_limit": "cut"}, "no such at_limit"),
        ({"num_beams": 2, "do_sample": True}, "beam search cannot sample"),
        ({"decoder_langs": ["de"]}, "decoder_langs"),
        ({"cuda_graphs": True}, "CUDA graphs need a CUDA device"),
        ({"at_limit": "original", "eos_token_id": ()}, "ends translations with </s> alone"),
        ({"at_limit": "original", "eos_token_id": (5, 1), "num_beams": 2}, "ends translations with </s> alone"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    ids, lengths = sources((4, 9))
    with pytest.raises(InputError, match=f"(?i){message}"):
        _MODELS["plain"].generate(ids, lengths=lengths, **{"langs": "en", "decoder_langs": "de", **changes})


def test_wrong_inputs_are_refused() -> None:
    model, ids = _MODELS["plain"], random_ids(2, 5)
    with pytest.raises(InputError, match="differ in number"):
        model(ids, random_ids(3, 5), langs="en", decoder_langs="de")
    with pytest.raises(InputError, match="decoder_lengths, decoder_attention_mask"):
        model(ids, ids, langs="en", decoder_langs="de", decoder_lengths=ids[:, 0], decoder_attention_mask=ids)
    with pytest.raises(InputError, match="decoder_input_ids"):
        model(ids, ids + 100, langs="en", decoder_langs="de")
    with pytest.raises(InputError, match=r"(?i)labels has the wrong shape") as wrong_labels:
        model(ids, ids, langs="en", decoder_langs="de", labels=ids[:, 1:])
    assert wrong_labels.value.where == "labels"
    for call in (model.generate, lambda ids, **langs: model(ids, ids, **langs)):
        with pytest.raises(LanguageError) as wrong_language:
            call(ids, langs="en", decoder_langs="fr")
        assert wrong_language.value.where == "decoder_langs"


@pytest.mark.parametrize("forward", [False, True])
def test_a_missing_language_of_the_target_is_warned_of_once(forward: bool) -> None:
    model, ids = small_translator(), random_ids(2, 5)
    with pytest.warns(XLMWarning, match="was called without decoder_langs: .* pass decoder_langs=") as caught:
        [model(ids, ids, langs="en") if forward else model.generate(ids, langs="en") for _ in range(2)]
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("part", ["", ".attention", ".cross_attention"])
@torch.no_grad()
def test_a_hook_that_drops_attention_weights_is_refused_if_they_are_requested(part: str) -> None:
    """Those of the other kind, or of the next layer, would be in their place."""
    model = small_translator()
    inputs = {"input_ids": random_ids(2, 5), "decoder_input_ids": random_ids(2, 3), **languages(model)}
    expected = model(**inputs)
    with model.get_submodule(f"decoder.transformer.layers.0{part}").register_forward_hook(lambda *call: call[2][0]):
        assert torch.equal(model(**inputs).logits, expected.logits)
        with pytest.raises(InputError, match="too few attention weights"):
            model(**inputs, output_attentions=True)


class _Doubling(XLMEncoderDecoderModel):
    def forward(self, *args: Any, **options: Any) -> Any:
        return super().forward(*args, **options)


def test_generate_refuses_a_forward_that_it_would_not_call() -> None:
    ids, lengths = sources((4, 9))
    options: dict[str, Any] = {"lengths": lengths, "langs": "en", "decoder_langs": "de"}
    with pytest.raises(InputError, match=r"_Doubling\.forward"):
        _Doubling(small_config()).generate(ids, **options)
    for part in ("", "encoder", "decoder"):
        model = small_translator()
        handle = model.get_submodule(part).register_forward_hook(lambda *_: None)
        with pytest.raises(InputError, match="forward hooks"):
            model.generate(ids, **options)
        handle.remove()
        model.generate(ids, **options)
