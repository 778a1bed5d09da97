"""Scores of texts.

Oracles: log-softmax written out in float64 numpy on the model's logits of the whole sentence; the log-probabilities
that the original gave 80 sentences with a model it trained (reference).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.demo_files import write_demo_files
from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.model.config import XLMConfig
from xlm.model.head import LinearHead
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score
from xlm.scoring.sentence import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

POSITIONS = 24
TEXTS = ["The small dog is sleeping on the grass.", "", "A cat .", "xylophone \U0001f600 the"]


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_files(tmp_path_factory.mktemp("demo"))


def open_tokenizer(files: Path, **settings: Any) -> XLMTokenizer:
    values: dict[str, Any] = {
        "lang2id": {"de": 0, "en": 1},
        "bos_token": "</s>",
        "do_lowercase_and_remove_accent": False,
    }
    return XLMTokenizer.from_codes(files / "codes", files / "vocab", **(values | settings))


@pytest.fixture(scope="module")
def tokenizer(demo_files: Path) -> XLMTokenizer:
    return open_tokenizer(demo_files)


def make_model(vocab_size: int, **changes: Any) -> XLMWithLMHeadModel:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "emb_dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": POSITIONS,
        "n_langs": 2,
        "lang2id": {"de": 0, "en": 1},
        "dropout": 0.5,
    }
    return XLMWithLMHeadModel(XLMConfig(**{**values, **changes})).eval()


def by_hand(model: XLMWithLMHeadModel, ids: list[int], language_id: int | None) -> list[float]:
    """Log-probability of each id but the first, from one forward over all of them."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), langs=language_id).logits[0].double().numpy()
    return [float(logits[t, ids[t + 1]] - np.log(np.exp(logits[t]).sum())) for t in range(len(ids) - 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_inout_emb": False},
        {"asm": True, "asm_cutoffs": (20, 60)},
        {"use_lang_emb": False},
        {"lang2id": {}},
    ],
    ids=["tied", "untied", "adaptive", "no language embeddings", "no language names"],
)
@pytest.mark.parametrize("lang", ["de", "en"])
def test_equals_log_softmax_by_hand(tokenizer: XLMTokenizer, changes: dict[str, Any], lang: str) -> None:
    model = make_model(tokenizer.vocab_size, **changes)
    results = score(model, tokenizer, TEXTS, lang=lang)
    assert len(results) == len(TEXTS)
    for text, result in zip(TEXTS, results, strict=True):
        ids = tokenizer.encode(text, lang=lang)
        expected = by_hand(model, ids, {"de": 0, "en": 1}[lang])
        assert (result.text, result.lang) == (text, lang)
        assert result.ids == tuple(ids[1:])
        assert result.tokens == tuple(tokenizer.convert_ids_to_tokens(ids))[1:]
        assert result.tokens[-1] == "</s>"
        np.testing.assert_allclose(result.logprobs, expected, atol=2e-6, rtol=1e-6)
        assert result.logprob == pytest.approx(math.fsum(expected), abs=1e-4)


def test_the_language_matters(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    (english,) = score(model, tokenizer, ["the dog"], lang="en")
    (german,) = score(model, tokenizer, ["the dog"], lang="de")
    assert english.ids == german.ids
    assert english.logprob != pytest.approx(german.logprob, abs=1e-3)


def test_an_empty_text_scores_its_end(tokenizer: XLMTokenizer) -> None:
    (result,) = score(make_model(tokenizer.vocab_size), tokenizer, [""], lang="en")
    assert result.tokens == ("</s>",)
    assert result.logprob == result.logprobs[0] < 0


def test_no_texts_no_scores(tokenizer: XLMTokenizer) -> None:
    assert score(make_model(tokenizer.vocab_size), tokenizer, [], lang="en") == []


def test_any_iterable_of_texts(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    assert score(model, tokenizer, iter(TEXTS), lang="en") == score(model, tokenizer, tuple(TEXTS), lang="en")


def test_a_half_precision_model_is_scored_in_float32(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size).to(torch.bfloat16)
    (result,) = score(model, tokenizer, [TEXTS[0]], lang="en")
    expected = by_hand(model, tokenizer.encode(TEXTS[0], lang="en"), 1)
    # The logits are bfloat16 on both sides; a bfloat16 softmax of them would be off by 0.01 and more.
    np.testing.assert_allclose(result.logprobs, expected, atol=2e-3)


def text_of_tokens(tokenizer: XLMTokenizer, count: int) -> str:
    text = " ".join(["the"] * count)
    assert len(tokenizer.encode(text, lang="en")) == count + 2
    return text


def test_the_longest_text_fits_and_one_token_more_does_not(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    longest = text_of_tokens(tokenizer, POSITIONS - 1)
    (result,) = score(model, tokenizer, [longest], lang="en")
    assert len(result.logprobs) == POSITIONS
    assert all(math.isfinite(value) for value in result.logprobs)
    with pytest.raises(InputError) as error:
        score(model, tokenizer, ["the", text_of_tokens(tokenizer, POSITIONS)], lang="en")
    assert error.value.where == "texts[1]"
    assert str(POSITIONS) in str(error.value.expected)
    assert str(POSITIONS + 1) in str(error.value.found)


def test_a_single_str_is_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="single str"):
        score(make_model(tokenizer.vocab_size), tokenizer, "the dog", lang="en")


def test_what_is_not_a_str_is_named(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError) as error:
        score(make_model(tokenizer.vocab_size), tokenizer, ["the", cast(str, b"dog")], lang="en")
    assert error.value.where == "texts[1]"
    assert error.value.found == "bytes"


@pytest.mark.parametrize("changes", [{}, {"lang2id": {}}, {"use_lang_emb": False}])
def test_an_unknown_language_is_refused(tokenizer: XLMTokenizer, changes: dict[str, Any]) -> None:
    with pytest.raises(LanguageError):
        score(make_model(tokenizer.vocab_size, **changes), tokenizer, ["the dog"], lang="fr")


def test_a_bidirectional_model_is_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="bidirectional"):
        score(make_model(tokenizer.vocab_size, causal=False), tokenizer, ["the dog"], lang="en")


def test_the_tokenizer_of_a_larger_model_is_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="vocabulary") as error:
        score(make_model(16), tokenizer, ["the", TEXTS[0]], lang="en")
    assert error.value.where == "texts[0]"


def test_dropout_is_off_and_every_mode_comes_back(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    expected = score(model, tokenizer, TEXTS, lang="en")
    model.train()
    frozen = model.transformer.embeddings.eval()
    modes = [module.training for module in model.modules()]
    assert set(modes) == {True, False}
    assert score(model, tokenizer, TEXTS, lang="en") == expected
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(InputError):
        score(model, tokenizer, [cast(str, None)], lang="en")
    assert [module.training for module in model.modules()] == modes
    assert not frozen.training


def test_the_model_can_be_trained_afterwards(tokenizer: XLMTokenizer) -> None:
    # Nothing made under inference mode stays in the model.
    model = make_model(tokenizer.vocab_size)
    score(model, tokenizer, TEXTS, lang="en")
    ids = torch.tensor([tokenizer.encode(TEXTS[0], lang="en")])
    model(ids, langs="en", labels=ids).loss.backward()
    gradient = model.transformer.embeddings.word.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_an_untrained_first_token_warns_once_and_is_scored_as_encoded(demo_files: Path) -> None:
    tokenizer = open_tokenizer(demo_files, bos_token="<s>")
    model = make_model(tokenizer.vocab_size)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        results = score(model, tokenizer, TEXTS, lang="en")
    assert [warning.category for warning in seen] == [XLMWarning]
    assert seen[0].filename == __file__
    assert "bos_token='</s>'" in str(seen[0].message)
    np.testing.assert_allclose(
        results[0].logprobs, by_hand(model, tokenizer.encode(TEXTS[0], lang="en"), 1), atol=2e-6, rtol=1e-6
    )


class RecordedTokenizer:
    """Gives each text the ids that were recorded for it, so that the texts' own pipeline plays no part."""

    def __init__(self, sentences: list[dict[str, Any]]) -> None:
        self.ids = {sentence["text"]: sentence["ids"] for sentence in sentences}
        self.tokens = {
            index: token
            for sentence in sentences
            for index, token in zip(sentence["ids"], sentence["tokens"], strict=True)
        }

    def encode(self, text: str, *, lang: str) -> list[int]:
        return list(self.ids[text])

    def convert_ids_to_tokens(self, ids: list[int]) -> Iterator[str]:
        return (self.tokens[index] for index in ids)


def test_the_sum_over_a_large_vocabulary_is_exact() -> None:
    # torch's own float32 log_softmax fails this one: it is off by 1e-5 and more.
    model = make_model(60_000)
    torch.nn.init.normal_(cast(LinearHead, model.head).bias, std=4)
    ids = torch.randint(14, 60_000, (POSITIONS,)).tolist()
    recorded = RecordedTokenizer([{"text": "x", "ids": ids, "tokens": list(map(str, ids))}])
    (result,) = score(model, cast(XLMTokenizer, recorded), ["x"], lang="en")
    np.testing.assert_allclose(result.logprobs, by_hand(model, ids, 1), atol=5e-6, rtol=0)


def test_equals_what_the_original_gave(reference: Path) -> None:
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    sentences = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["sentences"]
    model = XLMWithLMHeadModel.from_pretrained(folder / "clm_ende_multi30k.pth")
    recorded = cast(XLMTokenizer, RecordedTokenizer(sentences))
    results: list[SentenceScore] = []
    for sentence in sentences:
        results += score(model, recorded, [sentence["text"]], lang=sentence["lang"])
    assert len(results) == 80
    assert {result.lang for result in results} == {"de", "en"}
    for sentence, result in zip(sentences, results, strict=True):
        assert list(result.tokens) == sentence["tokens"][1:]
        np.testing.assert_allclose(result.logprobs, sentence["logprobs"], atol=1e-5, rtol=0)
