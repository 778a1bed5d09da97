"""Invalid prompts and options of decoding. Oracle: the argument, the value and the expectation in the error."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.small_models import random_ids, requested, small_model
from xlm.errors import InputError, LanguageError, XLMError, XLMWarning
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import prepare_prompts
from xlm.model.lm import XLMWithLMHeadModel

WAYS: tuple[dict[str, Any], ...] = ({}, {"do_sample": True}, {"do_sample": True, "top_p": 0.9}, {"num_beams": 2})


@pytest.fixture(scope="module")
def model() -> XLMWithLMHeadModel:
    return small_model(seed=1)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.0}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "min_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"do_sample": 1}, "do_sample"),
        ({"cuda_graphs": 1}, "cuda_graphs"),
        ({"cuda_graphs": True}, "cuda_graphs"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"do_sample": True, "temperature": -1}, "temperature"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature"),
        ({"do_sample": True, "temperature": float("inf")}, "temperature"),
        ({"do_sample": True, "temperature": "1"}, "temperature"),
        ({"do_sample": True, "top_k": -1}, "top_k"),
        ({"do_sample": True, "top_k": 1.5}, "top_k"),
        ({"do_sample": True, "top_p": 0.0}, "top_p"),
        ({"do_sample": True, "top_p": 1.1}, "top_p"),
        ({"do_sample": True, "min_p": -0.1}, "min_p"),
        ({"do_sample": True, "min_p": 1.1}, "min_p"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"num_beams": 2, "length_penalty": 1000.0}, "length_penalty"),
        ({"do_sample": True, "temperature": 1e-30}, "temperature"),
        ({"repetition_penalty": 1e30}, "repetition_penalty"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping"),
        ({"num_beams": 2, "early_stopping": 1}, "early_stopping"),
        ({"num_beams": 2, "early_stopping": torch.tensor([1, 2])}, "early_stopping"),
        ({"max_new_tokens": 2**63}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"seed": [1, 2.0]}, "seed"),
        ({"do_sample": True, "seed": [1, 2, 3]}, "seed"),
        ({"eos_token_id": 61}, "eos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"eos_token_id": (1, "x")}, "eos_token_id"),
        ({"suppress_tokens": [61]}, "suppress_tokens"),
        ({"suppress_tokens": range(61)}, "suppress_tokens, eos_token_id, num_beams"),
        ({"num_beams": 48}, "suppress_tokens, eos_token_id, num_beams"),
        ({"do_sample": True, "num_beams": 2}, "do_sample, num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences"),
        ({"max_length": 20}, "max_length"),
        ({"langs": None, "continuation_langs": "en"}, "langs"),
        ({"continuation_langs": "fr"}, "continuation_langs"),
        ({"continuation_langs": ["en"]}, "continuation_langs"),
        ({"continuation_langs": torch.zeros(2, 5, dtype=torch.int64)}, "continuation_langs"),
        ({"langs": "fr"}, "langs"),
        ({"lengths": torch.tensor([0, 3])}, "lengths"),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}, "attention_mask"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:this model has language embeddings")
def test_refused(model: XLMWithLMHeadModel, options: dict[str, Any], where: str) -> None:
    for method in (model.generate, model.continuations):
        with pytest.raises((InputError, LanguageError)) as caught:
            method(random_ids(2, 3), **{"langs": "en", **options})
        assert caught.value.where == where
        assert caught.value.expected


def test_the_most_that_is_allowed(model: XLMWithLMHeadModel) -> None:
    found = model.continuations(random_ids(1, 3), langs="en", num_beams=47, num_return_sequences=47, max_new_tokens=1)
    assert len({c.tokens for c in found}) == 47
    both = torch.ones(2, 5, dtype=torch.int64)
    model.generate(random_ids(2, 3), langs="en", continuation_langs=both, max_new_tokens=5)
    model.generate(random_ids(1, 3), langs="en", seed=2**63 - 1, do_sample=True, temperature=1e-3, min_p=1.0, top_p=1)


def test_the_ends_of_the_ranges(model: XLMWithLMHeadModel) -> None:
    for options in (
        {"num_beams": 2, "length_penalty": 100.0},
        {"num_beams": 2, "length_penalty": -100},
        {"do_sample": True, "temperature": 1e-6},
        {"do_sample": True, "temperature": 1e6, "repetition_penalty": 1e-6},
        {"repetition_penalty": 1e6},
    ):
        for c in model.continuations(random_ids(2, 3), langs="en", **options):
            assert all(token == 1 or 14 <= token < 61 for token in c.tokens)


def test_several_wrong_options_come_in_one_error(model: XLMWithLMHeadModel) -> None:
    with pytest.raises(InputError) as caught:
        model.generate(random_ids(1, 3), langs="en", max_new_tokens=0, temperature=0)
    assert caught.value.where == "max_new_tokens; temperature"
    assert caught.value.found == "max_new_tokens = 0; temperature = 0"


def test_prompts_that_no_model_takes(model: XLMWithLMHeadModel) -> None:
    for ids, what in [
        (random_ids(1, 17), "too long"),
        (torch.tensor([[61]]), "out of range"),
        (torch.zeros(1, 0, dtype=torch.int64), "empty"),
        (torch.tensor([[14, 2, 14]]), "padding must be on the right"),
        (torch.tensor([[2, 2]]), "without any token"),
        (torch.tensor([14, 15]), "matrix"),
    ]:
        with pytest.raises(InputError, match=f"(?i){what}"):
            model.generate(ids, langs="en")
    held = model.generate(torch.tensor([[14, 2, 14]]), lengths=torch.tensor([3]), langs="en", max_new_tokens=1)
    assert held.shape == (1, 4)


def test_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        small_model(causal=False).generate(random_ids(1, 3), langs="en")
    assert (caught.value.where, caught.value.found) == ("model", "causal = False")


@pytest.mark.parametrize(
    ("ids", "options"),
    [(random_ids(2, 3), {}), (random_ids(1, 3), {"num_beams": 2}), (random_ids(1, 3), {"num_return_sequences": 2})],
    ids=["two prompts", "beams", "two samples"],
)
def test_only_one_continuation_is_streamed(
    model: XLMWithLMHeadModel, ids: torch.Tensor, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="Only a single continuation"):
        model.stream(ids, langs="en", do_sample="num_return_sequences" in options, **options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, "temperature, top_p"),
        ({"top_k": 3, "min_p": 0.1}, "top_k, min_p"),
        ({"length_penalty": 0.5}, "length_penalty"),
        ({"early_stopping": True, "do_sample": True}, "early_stopping"),
    ],
    ids=str,
)
def test_options_without_effect_warn(model: XLMWithLMHeadModel, options: dict[str, Any], names: str) -> None:
    with pytest.warns(XLMWarning, match=f"^{names}: has no effect without") as caught:
        model.generate(random_ids(1, 3), langs="en", max_new_tokens=1, **options)
    assert caught[0].filename == __file__


def test_a_missing_language_warns_once() -> None:
    model = small_model(seed=1)
    with pytest.warns(XLMWarning, match="called without langs") as caught:
        model.generate(random_ids(1, 3), max_new_tokens=2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.continuations(random_ids(1, 3), max_new_tokens=2)
        small_model(n_langs=1).generate(random_ids(1, 3), max_new_tokens=2)


@pytest.mark.parametrize("method", ["generate", "continuations", "stream"])
def test_the_signature_names_every_option(method: str) -> None:
    parameters = inspect.signature(getattr(XLMWithLMHeadModel, method)).parameters
    fields = dataclasses.fields(DecodingOptions)
    assert {field.name: field.default for field in fields}.items() <= {
        name: parameter.default for name, parameter in parameters.items()
    }.items()
    assert all(parameters[field.name].kind == inspect.Parameter.KEYWORD_ONLY for field in fields)
    assert not any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(options: dict[str, Any], bad: float) -> None:
    model = small_model(seed=1)
    model.state_dict()["head.bias"][20] = bad
    methods: tuple[Callable[..., Any], ...] = (model.generate, model.continuations)
    for method in methods:
        with pytest.raises(XLMError, match="scores of the next token are not finite") as caught:
            method(random_ids(2, 3), langs="en", **options)
        assert caught.value.found == "NaN or infinity in 2 of 2 rows"


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_device_without_float64(model: XLMWithLMHeadModel, options: dict[str, Any]) -> None:
    device, ids, chosen = torch.device("mps"), random_ids(2, 3), DecodingOptions.checked(model.config, **options)
    if options:
        with pytest.raises(InputError, match="float64") as caught:
            prepare_prompts(model.config, device, ids, langs="en", options=chosen)
        assert caught.value.found == "a model on mps"
    else:
        prepare_prompts(model.config, device, ids, langs="en", options=chosen)


def test_an_interrupted_stream_has_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(seed=1)
    stream = model.stream(random_ids(1, 3), langs="en", max_new_tokens=5, min_new_tokens=5)
    next(stream)

    def interrupted(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    for _ in range(2):
        with pytest.raises(XLMError, match="interrupted") as caught:
            next(stream)
        assert isinstance(caught.value.__cause__, KeyboardInterrupt)
    assert stream.continuation is None


def test_columns_of_padding_are_cut(model: XLMWithLMHeadModel) -> None:
    ids, model_of, options = random_ids(2, 6), (model.config, model.device), DecodingOptions(max_new_tokens=3)
    for lengths, langs in ((None, "en"), (torch.tensor([4, 4]), torch.ones(2, 6, dtype=torch.int64))):
        padded = ids.clone()
        padded[:, 4:] = 2
        found = prepare_prompts(*model_of, padded, langs=langs, lengths=lengths, options=options)
        assert torch.equal(requested(found.inputs.input_ids), ids[:, :4])
        assert found.inputs.valid is None
        assert (found.lengths, found.capacity) == ((4, 4), 6)
        assert found.inputs.langs is not None
        assert found.inputs.langs.shape[1] in (1, 4)
    mixed = prepare_prompts(*model_of, ids, langs="en", lengths=torch.tensor([4, 2]), options=options)
    assert mixed.inputs.valid is not None
    assert mixed.inputs.valid.tolist() == [[True] * 4, [True, True, False, False]]
    expected = model.generate(ids[:, :4], langs="en", max_new_tokens=3)
    assert torch.equal(model.generate(ids, lengths=torch.tensor([4, 4]), langs="en", max_new_tokens=3), expected)
    both: dict[str, Any] = {"langs": "en", "max_new_tokens": 3}
    assert torch.equal(
        model.generate(ids, lengths=torch.tensor([4, 2]), **both),
        model.generate(ids[:, :4], lengths=torch.tensor([4, 2]), **both),
    )


def test_never_stopping_early_is_the_exact_search(model: XLMWithLMHeadModel) -> None:
    ids = random_ids(3, 3)
    options: dict[str, Any] = {"langs": "en", "num_beams": 3, "length_penalty": 0.3}
    never = model.continuations(ids, early_stopping="never", **options)
    assert never == model.continuations(ids, early_stopping=False, **options)
