"""Errors for wrong inputs, and all forms of languages.

Oracle: the docstring of ``XLMWithLMHeadModel.forward``; for languages, the same call with the (B, T) tensor of ids.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.model.cache import XLMCache

B, T = 3, 5
ONES = torch.ones(B, T, dtype=torch.int64)

WRONG: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    # name: inputs, where, part of what, part of found, part of expected
    "ids as a list": ({"input_ids": [[5, 6]]}, "input_ids", "matrix of whole numbers", "list", "int64"),
    "ids without a batch": ({"input_ids": random_ids(1, 4)[0]}, "input_ids", "matrix", "shape (4,)", "(batch, tokens)"),
    "ids in three dimensions": ({"input_ids": random_ids(1, 4)[None]}, "input_ids", "matrix", "(1, 1, 4)", "int64"),
    "ids as floats": ({"input_ids": ONES.float()}, "input_ids", "whole numbers", "torch.float32", "int64"),
    "ids as complex numbers": (
        {"input_ids": ONES.to(torch.complex64)},
        "input_ids",
        "whole",
        "torch.complex64",
        "int64",
    ),
    "ids as booleans": ({"input_ids": ONES.bool()}, "input_ids", "whole numbers", "torch.bool", "int64"),
    "ids as bytes": ({"input_ids": ONES.byte()}, "input_ids", "whole numbers", "torch.uint8", "int64"),
    "no tokens": ({"input_ids": ONES[:, :0]}, "input_ids", "is empty", "(3, 0)", "at least one token"),
    "no rows": ({"input_ids": ONES[:0]}, "input_ids", "is empty", "(0, 5)", "at least one token"),
    "an id too large": ({"input_ids": ONES * 61}, "input_ids", "out of range", "from 61 to 61", "0 to 60"),
    "an id below zero": ({"input_ids": -ONES}, "input_ids", "out of range", "from -1 to -1", "0 to 60"),
    "too long": ({"input_ids": random_ids(1, 17)}, "input_ids", "too long", "17 tokens", "at most 16"),
    "padding only": ({"input_ids": ONES * 2}, "rows [0, 1, 2]", "without any token", "padding", "at least one"),
    "one row of padding": (
        {"attention_mask": torch.tensor([[1] * T, [0] * T, [1] * T])},
        "rows [1]",
        "without any token",
        "padding only",
        "at least one token",
    ),
    "lengths and attention_mask": (
        {"lengths": torch.full((B,), T), "attention_mask": ONES},
        "lengths, attention_mask",
        "were both given",
        "both",
        "one of them",
    ),
    "lengths as a list": ({"lengths": [5, 5, 5]}, "lengths", "wrong shape", "list", "(3,)"),
    "too few lengths": ({"lengths": torch.tensor([5, 5])}, "lengths", "wrong shape", "(2,)", "(3,)"),
    "lengths as floats": ({"lengths": torch.full((B,), 2.5)}, "lengths", "whole numbers", "torch.float32", "int64"),
    "a length of zero": ({"lengths": torch.tensor([5, 0, 5])}, "lengths", "out of range", "[5, 0, 5]", "1 to 5"),
    "a length too large": ({"lengths": torch.tensor([5, 6, 5])}, "lengths", "out of range", "[5, 6, 5]", "1 to 5"),
    "a mask of another shape": ({"attention_mask": ONES[:, :4]}, "attention_mask", "wrong shape", "(3, 4)", "(3, 5)"),
    "a mask as a list": ({"attention_mask": ONES.tolist()}, "attention_mask", "wrong shape", "list", "(3, 5)"),
    "positions of another shape": ({"position_ids": ONES[:1]}, "position_ids", "wrong shape", "(1, 5)", "(3, 5)"),
    "positions as floats": ({"position_ids": ONES.float()}, "position_ids", "whole numbers", "torch.float32", "int64"),
    "a position too large": ({"position_ids": ONES * 16}, "position_ids", "out of range", "from 16 to 16", "0 to 15"),
    "a position below zero": ({"position_ids": -ONES}, "position_ids", "out of range", "from -1", "0 to 15"),
    "langs of another shape": ({"langs": ONES[:, :4]}, "langs", "wrong shape", "(3, 4)", "(3, 5)"),
    "too few langs": ({"langs": ["de", "en"]}, "langs", "wrong shape", "(2,)", "one for each of 3 rows"),
    "no langs": ({"langs": []}, "langs", "wrong shape", "(0,)", "one language for all"),
    "langs as floats": ({"langs": ONES.float()}, "langs", "whole numbers", "torch.float32", "int64"),
    "labels of another shape": ({"labels": ONES[:, :4]}, "labels", "wrong shape", "(3, 4)", "(3, 5)"),
    "labels as a list": ({"labels": ONES.tolist()}, "labels", "wrong shape", "list", "(3, 5)"),
    "labels as floats": ({"labels": ONES.float()}, "labels", "whole numbers", "torch.float32", "int64"),
    "sparse ids": ({"input_ids": random_ids(B, T).to_sparse()}, "input_ids", "matrix", "sparse", "int64"),
    "a sparse mask": ({"attention_mask": ONES.to_sparse()}, "attention_mask", "wrong shape", "sparse", "(3, 5)"),
    "ids without values": (
        {"input_ids": random_ids(B, T).to("meta")},
        "input_ids",
        "another device",
        "meta",
        "cpu",
    ),
    "lengths without values": ({"lengths": ONES[:, 0].to("meta")}, "lengths", "no values", "meta", "input_ids"),
    "labels without values": ({"labels": ONES.to("meta")}, "labels", "no values", "meta", "input_ids"),
    "a flag as text": ({"output_attentions": "no"}, "output_attentions", "neither true nor false", "'no'", "True"),
    "a flag as a tensor": (
        {"output_hidden_states": ONES},
        "output_hidden_states",
        "neither true nor false",
        "Tensor",
        "True",
    ),
    "true for a cache": ({"cache": True}, "cache", "is not a cache", "True", "an XLMCache"),
    "false for a cache": ({"cache": False}, "cache", "is not a cache", "False", "or None"),
    "a tuple for a cache": ({"cache": ((ONES,),)}, "cache", "is not a cache", "tuple", "an XLMCache"),
    "no label that counts": (
        {"labels": ONES * -100},
        "labels",
        "invalid labels",
        "0 labels that are not ignored",
        "at least one",
    ),
    "a label too large": ({"labels": ONES * 61}, "labels", "invalid labels", "12 of them out of range", "0 to 60"),
    "a label below zero": ({"labels": -ONES}, "labels", "invalid labels", "12 of them out of range", "or -100"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_are_named(case: str) -> None:
    inputs, where, what, found, expected = WRONG[case]
    given = {"input_ids": random_ids(B, T), "langs": "en", **inputs}
    with pytest.raises(InputError) as caught:
        small_model()(given.pop("input_ids"), **given)
    assert caught.value.where == where
    assert what in caught.value.what
    assert found in str(caught.value.found)
    assert expected in str(caught.value.expected)


@torch.no_grad()
def test_the_remedy_for_a_cache_makes_one() -> None:
    model, ids = small_model(), random_ids(B, T)
    with pytest.raises(InputError, match=r"cache = model\.new_cache\(batch_size\)"):
        model(ids, langs="en", cache=True)  # type: ignore[call-overload]
    assert requested(model(ids, langs="en", cache=model.new_cache(B)).cache).lengths.tolist() == [T] * B


NO_HIDDEN: dict[str, tuple[Any, str]] = {
    "none": (None, "NoneType"),
    "a list": ([[0.0] * 24], "list"),
    "ids": (torch.zeros(2, 24, dtype=torch.int64), "torch.int64 of shape (2, 24)"),
    "another width": (torch.zeros(2, 23), "of shape (2, 23)"),
    "a number": (torch.tensor(1.0), "of shape ()"),
}


@pytest.mark.parametrize("kind", NO_HIDDEN)
def test_what_has_no_logits(kind: str) -> None:
    hidden, found = NO_HIDDEN[kind]
    with pytest.raises(InputError, match="holds no hidden states") as caught:
        small_model().logits(hidden)
    assert found in str(caught.value.found)


@pytest.mark.parametrize("size", [0, -1, 1.0, True, "2", None, [2], 10**30, torch.tensor([1, 2])])
def test_what_is_no_size_of_a_cache(size: Any) -> None:
    with pytest.raises(InputError) as caught:
        small_model().new_cache(size)
    assert caught.value.where == "XLMCache"
    with pytest.raises(InputError):
        small_model().new_cache(2, capacity=17 if size is None else size)


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float32"}, {"device": "nowhere"}, {"device": 1.5}, {"batch_size": 10**12}]
)
def test_a_cache_that_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be allocated"):
        XLMCache(**{"config": small_model().config, "batch_size": 2, **wrong})


@pytest.mark.parametrize("weights", [8, ["int8"], {}, torch.int8, "int4", b"int8"])
def test_types_that_weights_cannot_be_packed_in(weights: Any) -> None:
    with pytest.raises(InputError) as caught:
        small_model().for_inference(weights)
    assert caught.value.where == "weights"


def test_the_remedy_for_one_sentence_without_a_batch() -> None:
    with pytest.raises(InputError, match=r"torch\.tensor\(\[ids\]\)"):
        small_model()(torch.tensor([5, 6]), langs="en")


@pytest.mark.parametrize(
    "langs", ["fr", 2, -1, ["en", "fr", "en"], ONES * 2, -ONES, torch.tensor([0, 1, 2]), [0.5] * B]
)
def test_an_unknown_language_is_refused(langs: Any) -> None:
    with pytest.raises(LanguageError, match=r"de \(0\), en \(1\)"):
        small_model()(random_ids(B, T), langs=langs)


LANGUAGES: dict[str, tuple[Any, Tensor]] = {
    "a name": ("en", ONES),
    "an id": (1, ONES),
    "names": (["de", "en", "de"], torch.tensor([[0], [1], [0]]).expand(B, T)),
    "ids": ((0, 1, 0), torch.tensor([[0], [1], [0]]).expand(B, T)),
    "names and ids": (["de", 1, 0], torch.tensor([[0], [1], [0]]).expand(B, T)),
    "(B,)": (torch.tensor([0, 1, 0]), torch.tensor([[0], [1], [0]]).expand(B, T)),
    "(B, 1)": (torch.tensor([[0], [1], [0]]), torch.tensor([[0], [1], [0]]).expand(B, T)),
    "(B, T)": (torch.arange(B * T).view(B, T) % 2, torch.arange(B * T).view(B, T) % 2),
    "int32": (ONES.int(), ONES),
}


@pytest.mark.parametrize("form", LANGUAGES)
@torch.no_grad()
def test_languages_in_every_form(form: str) -> None:
    model, ids = small_model(), random_ids(B, T)
    langs, as_ids = LANGUAGES[form]
    expected = model(ids, langs=as_ids).logits
    assert torch.equal(model(ids, langs=langs).logits, expected)
    assert relative_error(model(ids, langs=1 - as_ids).logits, expected) > 0.01


@torch.no_grad()
def test_languages_as_in_the_published_model_card() -> None:
    model, ids = small_model(), random_ids(1, T)
    langs = torch.tensor([1] * ids.shape[1]).view(1, -1)
    assert torch.equal(model(ids, langs=langs)[0], model(ids, langs="en").logits)


@torch.no_grad()
def test_as_many_tokens_as_rows_reads_a_vector_as_one_language_a_row() -> None:
    model, ids = small_model(), random_ids(B, B)
    expected = model(ids, langs=torch.tensor([[0] * B, [1] * B, [0] * B])).logits
    assert torch.equal(model(ids, langs=torch.tensor([0, 1, 0])).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{"n_langs": 1}, {"use_lang_emb": False}], ids=["monolingual", "no embeddings"])
def test_languages_of_a_model_without_language_embeddings_change_nothing(changes: dict[str, Any]) -> None:
    model, ids = small_model(**changes), random_ids(B, T)
    assert torch.equal(model(ids, langs=0).logits, model(ids).logits)
    with pytest.raises(LanguageError):
        model(ids, langs=2)


@torch.no_grad()
def test_without_langs_a_multilingual_model_warns_once_at_the_caller() -> None:
    model, ids = small_model(), random_ids(B, T)
    with pytest.warns(XLMWarning, match=r"de, en.*pass langs=") as caught:
        first = model(ids).logits
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    assert torch.equal(model(ids).logits, first)  # a second warning would be an error here
    with pytest.warns(XLMWarning) as caught:
        small_model().hidden(ids)
    assert [warning.filename for warning in caught] == [__file__]


@torch.no_grad()
def test_no_warning_where_there_is_nothing_to_warn_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_model()(random_ids(B, T), langs="en")
        small_model(n_langs=1)(random_ids(B, T))
        small_model(use_lang_emb=False)(random_ids(B, T))


@torch.no_grad()
def test_int32_is_taken_everywhere() -> None:
    model, ids = small_model(), random_ids(B, T)
    positions = torch.arange(T).flip(0).expand(B, T)
    lengths = torch.tensor([5, 2, 3])
    expected = model(ids, langs=ONES, position_ids=positions, lengths=lengths, labels=ids)
    found = model(ids.int(), langs=ONES.int(), position_ids=positions.int(), lengths=lengths.int(), labels=ids.int())
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(requested(found.loss), requested(expected.loss))


@torch.no_grad()
def test_inputs_are_left_as_they_were() -> None:
    ids, langs, mask, labels = random_ids(B, T), ONES.clone(), torch.ones(B, T), random_ids(B, T, seed=2)
    mask[:, -1] = 0
    before = [tensor.clone() for tensor in (ids, langs, mask, labels)]
    small_model()(ids, langs=langs, attention_mask=mask, labels=labels)
    assert all(torch.equal(now, then) for now, then in zip((ids, langs, mask, labels), before, strict=True))
