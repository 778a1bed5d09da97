"""Perplexities.

Oracle: the original's own figures for a model it trained (reference); its stream written out on nested lists, one
forward a window; sums of sentence scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.scoring.small import POSITIONS, make_model, open_tokenizer
from tests.scoring.test_conditions import loop
from xlm.errors import InputError, LanguageError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.perplexity import LanguagePerplexity, perplexity
from xlm.scoring.score import score
from xlm.tokenizer.tokenizer import XLMTokenizer

TEXTS = ["The small dog is sleeping on the grass.", "", "A cat .", "xylophone ü the", "the dog " * 20]


def stream_by_hand(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: list[str], lang: str, window: int
) -> tuple[float, int]:
    sentences = [[*tokenizer.encode(text, lang=lang, add_special_tokens=False), 1] for text in texts]
    stream = [token for sentence in sentences for token in sentence]
    columns = math.ceil(len(stream) / window) * window
    row = [1] + [1] * (columns - len(stream)) + stream
    nats, predicted = 0.0, 0
    for start in range(0, columns, window):
        tokens = row[start : start + window]
        with torch.no_grad():
            logprobs = model(torch.tensor([tokens]), langs=lang).logits[0].double().log_softmax(-1)
        for t in range(1, window):
            nats -= float(logprobs[t - 1, tokens[t]])
            predicted += 1
    return nats, predicted


@pytest.mark.parametrize("window", [2, 5, POSITIONS])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], [""], ["", ""]], ids=len)
def test_the_stream_is_that_of_the_original(tokenizer: XLMTokenizer, texts: list[str], window: int) -> None:
    model = make_model(tokenizer.vocab_size)
    nats, predicted = stream_by_hand(model, tokenizer, texts, "en", window)
    batchings: list[dict[str, Any]] = [{}, {"batch_size": 1}, {"batch_tokens": 100}]
    for batching in batchings:
        found = perplexity(model, tokenizer, iter(texts), lang="en", protocol="stream", window=window, **batching)
        (english,) = found.languages
        assert (english.lang, english.texts, english.tokens) == ("en", len(texts), predicted)
        assert english.nats == pytest.approx(nats, rel=1e-6)
        assert found.perplexity == english.perplexity == pytest.approx(math.exp(nats / predicted), rel=1e-6)
        # Per character, each token of the texts counts like the average of those predicted.
        text, length = (
            "".join(f"{text}\n" for text in texts),
            sum(len(tokenizer.encode(t, lang="en")) - 1 for t in texts),
        )
        bits = nats / predicted * length / math.log(2)
        assert english.bits_per_character == pytest.approx(bits / len(text), rel=1e-6)
        assert english.bits_per_byte == pytest.approx(bits / len(text.encode()), rel=1e-6)
        words = len(text.split()) + len(texts)
        assert english.perplexity_per_word == pytest.approx(2 ** (bits / words), rel=1e-5)
        assert (found.protocol, found.window, found.stride) == ("stream", window, None)


def test_the_opening_token_of_the_tokenizer_plays_no_part_in_the_stream(
    demo_files: Path, tokenizer: XLMTokenizer
) -> None:
    model = make_model(tokenizer.vocab_size)
    other = open_tokenizer(demo_files, bos_token="<s>")
    first, second = (perplexity(model, t, TEXTS, lang="en", protocol="stream", window=5) for t in (tokenizer, other))
    assert first == second


def test_sentences_by_themselves(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    results = score(model, tokenizer, TEXTS, lang="en")
    found = perplexity(model, tokenizer, TEXTS, lang="en")
    (english,) = found.languages
    nats = -sum(result.logprob for result in results)
    assert english.tokens == sum(len(result.tokens) for result in results)
    assert english.nats == pytest.approx(nats, rel=1e-7)
    assert english.nats_per_token == pytest.approx(nats / english.tokens, rel=1e-7)
    text = "".join(f"{text}\n" for text in TEXTS)
    assert (english.characters, english.utf8_bytes) == (len(text), len(text.encode()))
    assert english.bits_per_character == pytest.approx(nats / math.log(2) / len(text), rel=1e-7)
    assert english.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-7)
    assert english.words == len(text.split()) + len(TEXTS)
    assert english.perplexity_per_word == pytest.approx(math.exp(nats / english.words), rel=1e-6)
    assert (found.protocol, found.window, found.stride) == ("sentence", None, POSITIONS // 2)


def test_unknown_tokens_are_counted_among_those_predicted(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    texts = ["the 漢 dog", "", "漢", "<unk> the dog"]
    stream = [1, *(index for text in texts for index in tokenizer.encode(text, lang="en")[1:])]
    (by_sentence,) = perplexity(model, tokenizer, texts, lang="en").languages
    assert by_sentence.unknown == stream.count(tokenizer.unk_token_id) > 3
    window = 4
    row = [1] * (-(len(stream) - 1) % window) + stream
    predicted = [row[i] for i in range(len(row) - 1) if i % window]  # each window's first is given
    (in_stream,) = perplexity(model, tokenizer, texts, lang="en", protocol="stream", window=window).languages
    assert in_stream.tokens == len(predicted)
    assert in_stream.unknown == predicted.count(tokenizer.unk_token_id)


def test_several_languages_and_the_mean_of_their_perplexities(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    found = perplexity(model, tokenizer, {"en": TEXTS, "de": TEXTS[:1]}, protocol="stream", window=7)
    alone = [
        perplexity(model, tokenizer, texts, lang=lang, protocol="stream", window=7).perplexity
        for lang, texts in (("en", TEXTS), ("de", TEXTS[:1]))
    ]
    assert [each.lang for each in found.languages] == ["en", "de"]
    assert [each.perplexity for each in found.languages] == pytest.approx(alone, rel=1e-7)
    assert found.perplexity == pytest.approx(sum(alone) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("texts", "options", "where"),
    [
        (TEXTS, {}, "lang"),
        ({"en": TEXTS}, {"lang": "en"}, "lang"),
        ({}, {}, "texts"),
        ([], {"lang": "en"}, "texts"),
        ([], {"lang": "en", "protocol": "stream"}, "texts"),
        ("the dog", {"lang": "en"}, "texts"),
        ({"en": {"text": ["the dog"]}}, {}, "texts"),
        (["the", 3], {"lang": "en"}, "texts[1]"),
        (["the", 3], {"lang": "en", "protocol": "stream"}, "texts[1]"),
        (TEXTS, {"lang": "en", "protocol": "paragraph"}, "protocol"),
        (TEXTS, {"lang": "en", "protocol": "document"}, "texts[0]"),
        ([["the"], ["the", 3]], {"lang": "en", "protocol": "document"}, "texts[1][1]"),
        ([[], []], {"lang": "en", "protocol": "document"}, "texts"),
        ([["the"]], {"lang": "en", "protocol": "document", "window": 5}, "window"),
        (TEXTS, {"lang": "en", "window": 5}, "window"),
        (TEXTS, {"lang": "en", "protocol": "stream", "window": 1}, "window"),
        (TEXTS, {"lang": "en", "protocol": "stream", "window": POSITIONS + 1}, "window"),
        (TEXTS, {"lang": "en", "stride": 0}, "stride"),
        (TEXTS, {"lang": "en", "protocol": "stream", "stride": 3}, "stride"),
    ],
)
def test_what_cannot_be_is_refused(tokenizer: XLMTokenizer, texts: Any, options: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as error:
        perplexity(make_model(tokenizer.vocab_size), tokenizer, texts, **options)
    assert error.value.where == where


def test_an_unknown_language_is_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(LanguageError):
        perplexity(make_model(tokenizer.vocab_size), tokenizer, TEXTS, lang="fr")


def test_an_unknown_second_language_is_refused_before_anything_is_read(tokenizer: XLMTokenizer) -> None:
    english = iter(TEXTS)
    with pytest.raises(LanguageError):
        perplexity(make_model(tokenizer.vocab_size), tokenizer, {"en": english, "fr": TEXTS})
    assert list(english) == TEXTS


def result_of(texts: int, nats: float, **fields: Any) -> LanguagePerplexity:
    """A result for texts of one token, word, character and byte each."""
    counts: dict[str, Any] = dict.fromkeys(("tokens", "words", "characters", "utf8_bytes", "text_tokens"), texts)
    return LanguagePerplexity(lang="en", texts=texts, nats=nats, unknown=0, whole=True, **counts, **fields)


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    found = result_of(1, 800.0)
    assert found.perplexity == math.inf
    assert found.perplexity_per_word == math.inf


MEASURES = ("perplexity", "nats_per_token", "perplexity_per_word", "bits_per_character", "bits_per_byte")


def test_intervals_resample_the_texts(tokenizer: XLMTokenizer) -> None:
    model, other = (make_model(tokenizer.vocab_size, emb_dim=width) for width in (16, 32))
    texts = [*TEXTS, "Der Hund", "the the the"]
    first, second = (perplexity(each, tokenizer, texts, lang="en").languages[0] for each in (model, other))

    def measured(results: list[Any], measure: str) -> float:
        text = "".join(f"{result.text}\n" for result in results)
        nats = -sum(result.logprob for result in results)
        units = {
            "perplexity": sum(len(result.tokens) for result in results),
            "perplexity_per_word": len(text.split()) + len(results),
            "bits_per_character": len(text) * math.log(2),
            "bits_per_byte": len(text.encode()) * math.log(2),
        }
        units["nats_per_token"] = units["perplexity"]
        rate = nats / units[measure]
        return math.exp(rate) if measure.startswith("perplexity") else rate

    scores = [score(each, tokenizer, texts, lang="en") for each in (model, other)]
    for measure in MEASURES:
        draws = np.random.default_rng(3)
        values = []
        for _ in range(40):
            drawn = draws.integers(len(texts), size=len(texts))
            values.append([measured([results[i] for i in drawn], measure) for results in scores])
        by_model = np.array(values)
        for result, column in ((first, 0), (second, 1)):
            expected = np.percentile(by_model[:, column], (2.5, 97.5))
            assert result.interval(measure, resamples=40, seed=3) == pytest.approx(tuple(expected), rel=1e-5)
            assert measured(scores[column], measure) == pytest.approx(getattr(result, measure), rel=1e-5)
        differences = np.percentile(by_model[:, 0] - by_model[:, 1], (2.5, 97.5))
        found = first.difference_interval(second, measure, resamples=40, seed=3)
        assert found == pytest.approx(tuple(differences), rel=1e-3)
        assert first.difference_interval(first, measure) == (0.0, 0.0)
    assert first.interval("perplexity") == first.interval("perplexity")
    assert first.interval("perplexity") != first.interval("perplexity", seed=1)


def test_intervals_cover_what_they_estimate() -> None:
    # The nats of each text come from a distribution with mean 1, so about 95 % of the intervals hold 1: 190, less 4
    # standard deviations, and less 3 because percentiles of a bootstrap over 60 texts are a little too narrow.
    random, ones = np.random.default_rng(0), np.ones(60, np.int64)
    covered = 0
    for _ in range(200):
        by_text = {"nats": random.uniform(0, 2, 60), "tokens": ones}
        found = result_of(60, float(by_text["nats"].sum()), _by_text=by_text)
        low, high = found.interval("nats_per_token", resamples=200)
        assert low < found.nats_per_token < high
        covered += low < 1 < high
    assert 175 <= covered < 200


def test_what_has_no_interval_says_so(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    (found,) = perplexity(model, tokenizer, TEXTS, lang="en").languages
    (stream,) = perplexity(model, tokenizer, TEXTS, lang="en", protocol="stream").languages
    (fewer,) = perplexity(model, tokenizer, TEXTS[1:], lang="en").languages
    (others,) = perplexity(model, tokenizer, [*TEXTS[1:], "the"], lang="en").languages
    with pytest.raises(InputError, match="stream has no confidence interval"):
        stream.interval("perplexity")
    with pytest.raises(InputError, match="stream has no confidence interval"):
        found.difference_interval(stream, "perplexity")
    for other in (fewer, others):
        with pytest.raises(InputError, match="of different texts"):
            found.difference_interval(other, "perplexity")
    with pytest.raises(InputError, match="No such measure"):
        found.interval("texts")
    with pytest.raises(InputError, match="Not a result of perplexity"):
        found.difference_interval(3, "perplexity")  # type: ignore[arg-type]


def _figures() -> Iterator[tuple[str, str]]:
    return ((split, lang) for split in ("valid", "test") for lang in ("de", "en"))


@pytest.mark.parametrize(("split", "lang"), list(_figures()))
def test_equals_what_the_original_reported(reference: Path, split: str, lang: str) -> None:
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    reported = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["evaluate_clm"]
    model = XLMWithLMHeadModel.from_pretrained(folder / "clm_ende_multi30k.pth")
    tokenizer = XLMTokenizer.from_pretrained(
        folder / "clm_ende_multi30k.pth", codes=reference / "published" / "codes_ende"
    )
    texts = (folder / f"{split}.{lang}").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(texts) == 500
    found = perplexity(model, tokenizer, texts, lang=lang, protocol="stream", window=reported["bptt"])
    # Measured: 2e-6, the error of torch's float32 log_softmax over 64,699 words, which the original uses.
    assert found.perplexity == pytest.approx(reported[f"{split}_{lang}_clm_ppl"], rel=1e-5)


DOCUMENTS = [["the small dog.", "", "A cat!"], [], ["\u6f22"], ["the grass is small"] * 6]


def test_documents_equal_the_loop(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    nats, tokens, unknown = [], [], 0
    for sentences in filter(None, DOCUMENTS):
        ids = [1, *(index for text in sentences for index in tokenizer.encode(text, lang="en")[1:])]
        nats.append(-sum(loop(model, ids, [1] * len(ids))))
        tokens.append(len(ids) - 1)
        unknown += ids.count(tokenizer.unk_token_id)
    result = perplexity(model, tokenizer, iter(DOCUMENTS), lang="en", protocol="document")
    (found,) = result.languages
    assert (result.protocol, result.window, result.stride) == ("document", None, POSITIONS // 2)
    assert found.nats == pytest.approx(sum(nats), rel=1e-6)
    assert (found.tokens, found.text_tokens, found.documents, found.texts) == (sum(tokens), sum(tokens), 3, 10)
    assert (found.words, found.unknown) == (3 + 2 + 1 + 6 * 4 + 10, unknown)
    draws = np.random.default_rng(7)
    rates = []
    for _ in range(50):  # whole documents are drawn
        drawn = draws.integers(3, size=3)
        rates.append(sum(nats[i] for i in drawn) / sum(tokens[i] for i in drawn))
    low, high = found.interval("nats_per_token", resamples=50, seed=7)
    assert (low, high) == pytest.approx(tuple(np.quantile(rates, (0.025, 0.975))), rel=1e-6)
    alone = perplexity(model, tokenizer, [[text] for text in TEXTS], lang="en", protocol="document").languages[0]
    assert alone.nats == perplexity(model, tokenizer, TEXTS, lang="en").languages[0].nats
