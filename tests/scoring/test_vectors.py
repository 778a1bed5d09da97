"""Hidden states and attention by word.

Oracle: plain loops over the model's own forward for one text, with the words and numbers of tokens that ``score``
returns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.small_models import requested
from tests.scoring.small import make_model
from tests.scoring.test_words import TEXTS
from xlm.errors import InputError, LanguageError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score
from xlm.scoring.vectors import Array, WordVectors, word_vectors, word_vectors_stream
from xlm.tokenizer.tokenizer import XLMTokenizer

NASTY = [
    "The small dog,\tsleeping … cat.",
    "",
    "  \u00ad\x07 a \U0001f600\u3000x'd",
    "dogdog-dog aTx",
    "\x07",
    "<pad> the </s> dog",
]
POSITIONS = 96


@pytest.fixture(scope="module")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    return make_model(tokenizer.vocab_size, max_position_embeddings=POSITIONS)


def expected(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, lang: str, pool: str
) -> tuple[list[list[list[float]]], list[list[list[list[float]]]]]:
    """Return vectors by word, layer and dimension, and attentions by layer, head and two words, with plain loops."""
    ids = torch.tensor([tokenizer.encode(text, lang=lang)])
    with torch.no_grad():
        lengths = torch.tensor([ids.shape[1]])
        output = model(ids, langs=lang, lengths=lengths, output_hidden_states=True, output_attentions=True)
    places, begin = [], 1  # the tokens of each word; the first token is the opening one
    for word in score(model, tokenizer, [text], lang=lang)[0].words:
        places.append(list(range(begin, begin + word.tokens)))
        begin += word.tokens
    assert begin == ids.shape[1] - 1

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    def pooled(values: list[float]) -> float:
        return mean({"mean": values, "first": values[:1], "last": values[-1:]}[pool])

    vectors = [
        [
            [pooled([states[0, t, d].item() for t in word]) for d in range(model.config.emb_dim)]
            for states in requested(output.hidden_states)
        ]
        for word in places
    ]
    attentions = [
        [
            [[mean([sum(head[q, k].item() for k in target) for q in word]) for target in places] for word in places]
            for head in weights[0]
        ]
        for weights in requested(output.attentions)
    ]
    return vectors, attentions


def close(found: Array | None, wanted: object, shape: tuple[int, ...]) -> None:
    assert found is not None
    assert found.shape == shape
    np.testing.assert_allclose(found, np.array(wanted).reshape(shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_vectors_and_attentions_are_those_of_a_plain_loop(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, pool: str
) -> None:
    (result,) = word_vectors(model, tokenizer, [text], lang="de", pool=pool, attentions=True)
    vectors, attentions = expected(model, tokenizer, text, "de", pool)
    W = len(text.split())
    close(result.vectors, vectors, (W, 3, 16))
    close(result.attentions, attentions, (2, 2, W, W))
    assert (result.text, result.lang, result.layers) == (text, "de", (0, 1, 2))
    words = score(model, tokenizer, [text], lang="de")[0].words
    parts = [(word.text, word.start, word.end, word.tokens) for word in words]
    assert [(word.text, word.start, word.end, word.tokens) for word in result.words] == parts


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, max_size=5), batch_size=st.integers(1, 4))
def test_a_batch_equals_each_text_alone(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: list[str], batch_size: int
) -> None:
    together = word_vectors(model, tokenizer, texts, lang="en", attentions=True, batch_size=batch_size)
    assert [result.text for result in together] == texts
    for text, result in zip(texts, together, strict=True):
        vectors, attentions = expected(model, tokenizer, text, "en", "mean")
        close(result.vectors, vectors, result.vectors.shape)
        close(result.attentions, attentions, (2, 2, len(text.split()), len(text.split())))


def test_a_word_that_the_tokenizer_drops(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    (result,) = word_vectors(model, tokenizer, ["the \x07 dog"], lang="en", attentions=True)
    assert [word.tokens for word in result.words] == [1, 0, 1]
    assert [bool(np.isnan(vector).all()) for vector in result.vectors] == [False, True, False]
    assert result.attentions is not None
    assert np.isnan(result.attentions[:, :, 1]).all()
    assert (result.attentions[:, :, [0, 2], 1] == 0).all()


def test_attention_left_over_is_that_to_the_opening_token(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    text = "The small dog is sleeping"
    (result,) = word_vectors(model, tokenizer, [text], lang="en", attentions=True)
    ids = torch.tensor([tokenizer.encode(text, lang="en")])
    with torch.no_grad():
        weights = requested(model(ids, langs="en", output_attentions=True).attentions)[1][0]
    assert result.attentions is not None
    left = 1 - result.attentions[1].sum(-1)
    assert result.words[0].tokens == 1
    np.testing.assert_allclose(left[:, 0], weights[:, 1, 0], atol=1e-5)
    assert (np.triu(result.attentions, 1) == 0).all()  # no word sees a later one


@pytest.mark.parametrize("layers", [[-1], [0], (2, 0), range(1, 3), None])
def test_chosen_layers(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, layers: list[int] | None) -> None:
    (every,) = word_vectors(model, tokenizer, ["the dog"], lang="en", attentions=True)
    (result,) = word_vectors(model, tokenizer, ["the dog"], lang="en", attentions=True, layers=layers)
    numbers = [0, 1, 2] if layers is None else [layer % 3 for layer in layers]
    assert list(result.layers) == numbers
    assert np.array_equal(result.vectors, every.vectors[:, numbers])
    assert result.attentions is not None
    assert every.attentions is not None
    assert np.array_equal(result.attentions, every.attentions[[layer - 1 for layer in numbers if layer]])


def test_a_bidirectional_model_has_vectors_that_see_what_follows(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    both_ways = XLMWithLMHeadModel(replace(model.config, causal=False)).eval()
    (result,) = word_vectors(both_ways, tokenizer, [NASTY[0]], lang="en", attentions=True)
    ids = torch.tensor([tokenizer.encode(NASTY[0], lang="en")])
    with torch.no_grad():
        last = requested(both_ways(ids, langs="en", output_hidden_states=True).hidden_states)[-1]
    np.testing.assert_allclose(result.vectors[0, -1], last[0, 1], atol=1e-5)
    assert result.words[0].tokens == 1
    assert result.attentions is not None
    assert result.attentions[0, 0, 0, 1] > 0


def test_other_weights(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    def vectors(model: XLMWithLMHeadModel) -> WordVectors:
        return word_vectors(model, tokenizer, NASTY[:1], lang="en", attentions=True)[0]

    plain = vectors(model)
    packed = vectors(model.for_inference())
    np.testing.assert_allclose(packed.vectors, plain.vectors, atol=1e-5)
    double = make_model(tokenizer.vocab_size, max_position_embeddings=POSITIONS).double()
    assert vectors(double).vectors.dtype == np.float64
    np.testing.assert_allclose(vectors(double).vectors, plain.vectors, atol=1e-5)
    half = make_model(tokenizer.vocab_size, max_position_embeddings=POSITIONS).bfloat16()
    assert vectors(half).vectors.dtype == np.float32
    np.testing.assert_allclose(vectors(half).vectors, plain.vectors, atol=0.2)


def test_a_stream_reads_one_batch_ahead(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    read = []
    (expected,) = word_vectors(model, tokenizer, ["the dog"], lang="en")

    def texts() -> Iterator[str]:
        for number in range(9):
            read.append(number)
            yield "the dog"

    model.train()
    stream = word_vectors_stream(model, tokenizer, texts(), lang="en", batch_size=2)
    assert read == []
    np.testing.assert_allclose(next(stream).vectors, expected.vectors, atol=1e-5)  # without dropout
    assert len(read) <= 3
    assert model.training
    assert not torch.is_inference_mode_enabled()
    assert len(list(stream)) == 8
    model.eval()


def test_what_has_no_vectors_is_refused(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    fits = "the " * (POSITIONS - 2)
    assert len(word_vectors(model, tokenizer, [fits], lang="en")[0].words) == POSITIONS - 2
    with pytest.raises(InputError, match="longer than the model's positions") as caught:
        word_vectors(model, tokenizer, ["the", fits + "the"], lang="en")
    assert caught.value.where == "texts[1]"
    with pytest.raises(InputError, match="single str"):
        word_vectors(model, tokenizer, "the", lang="en")
    with pytest.raises(InputError, match="not a str"):
        word_vectors(model, tokenizer, [None], lang="en")  # type: ignore[list-item]
    with pytest.raises(InputError, match="No such pooling"):
        word_vectors(model, tokenizer, ["the"], lang="en", pool="max")
    for layers in ([3], [-4], [], [True], -1, [[0]]):
        with pytest.raises(InputError, match="No such layers"):
            word_vectors(model, tokenizer, ["the"], lang="en", layers=layers)  # type: ignore[arg-type]
    with pytest.raises(LanguageError):
        word_vectors(model, tokenizer, ["the"], lang="fr")
