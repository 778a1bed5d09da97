"""Scores of texts.

Oracles: log-softmax written out in float64 numpy on the model's logits of the whole sentence; the log-probabilities
that the original gave 80 sentences with a model it trained (reference); a text by itself, for texts in batches.
"""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.small_models import requested
from tests.scoring.small import POSITIONS, make_model, open_tokenizer
from xlm.errors import InputError, LanguageError, XLMError, XLMWarning
from xlm.model.head import LinearHead
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring import logprobs
from xlm.scoring.frames import score_frame
from xlm.scoring.perplexity import perplexity
from xlm.scoring.score import score, score_stream
from xlm.scoring.scorer import SentenceScore, _as_tokens
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

TEXTS = ["The small dog is sleeping on the grass.", "", "A cat .", "xylophone \U0001f600 the"]


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
    ids = torch.tensor([tokenizer.encode(TEXTS[0], lang="en")])
    with torch.no_grad():
        hidden_TD = model.hidden(ids[:, :-1], langs=1)[0].double()
    head = cast(LinearHead, model.head)
    logits_TV = hidden_TD @ model.transformer.embeddings.word.weight.double().T + head.bias.double()
    expected = logits_TV.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    # The hidden states are bfloat16 on both sides; logits rounded to bfloat16 would be off by 2e-3 and more.
    np.testing.assert_allclose(result.logprobs, expected.detach(), atol=5e-6)


def test_bfloat16_is_close_to_float32(reference: Path) -> None:
    """On the model that the original trained: the error of a token, and of the whole, against float32."""
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    tokenizer = XLMTokenizer.from_pretrained(
        folder / "clm_ende_multi30k.pth", codes=reference / "published" / "codes_ende"
    )
    texts = (folder / "valid.en").read_text(encoding="utf-8").split("\n")[:100]
    exact, rounded = (
        [
            logprob
            for result in score(
                XLMWithLMHeadModel.from_pretrained(folder / "clm_ende_multi30k.pth", dtype=dtype),
                tokenizer,
                texts,
                lang="en",
            )
            for logprob in result.logprobs
        ]
        for dtype in ("float32", "bfloat16")
    )
    error = np.abs(np.array(rounded) - np.array(exact))
    assert error.max() > 1e-4  # it was bfloat16
    # Bfloat16 has 8 bits: logits of 8 to 16 are rounded to steps of 1/16, and six such layers stand before them.
    assert error.max() < 0.25
    assert np.median(error) < 0.03
    assert abs(np.mean(rounded) - np.mean(exact)) < 0.005


def text_of_tokens(tokenizer: XLMTokenizer, count: int) -> str:
    text = " ".join(["the"] * count)
    assert len(tokenizer.encode(text, lang="en")) == count + 2
    return text


def test_the_longest_text_fits_and_one_token_more_can_be_refused(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    longest = text_of_tokens(tokenizer, POSITIONS - 1)
    (result,) = score(model, tokenizer, [longest], lang="en", too_long="refuse")
    assert len(result.logprobs) == POSITIONS
    assert result.windows == 1
    assert all(math.isfinite(value) for value in result.logprobs)
    with pytest.raises(InputError) as error:
        score(model, tokenizer, ["the", text_of_tokens(tokenizer, POSITIONS)], lang="en", too_long="refuse")
    assert error.value.where == "texts[1]"
    assert str(POSITIONS) in str(error.value.expected)
    assert str(POSITIONS + 1) in str(error.value.found)


@pytest.mark.parametrize("stride", [None, 1, 7, POSITIONS])
@pytest.mark.parametrize("length", [POSITIONS, POSITIONS + 1, 3 * POSITIONS + 5])
def test_a_long_text_is_scored_in_windows(tokenizer: XLMTokenizer, length: int, stride: int | None) -> None:
    """Against a plain loop that feeds each token the context it should have, one forward a token."""
    model = make_model(tokenizer.vocab_size)
    words = ["the", "dog", "cat", "A", "small", "grass"]
    text = " ".join(words[i * i % len(words)] for i in range(length))
    ids = tokenizer.encode(text, lang="en")
    step = stride or POSITIONS // 2
    expected = []
    for target in range(1, len(ids)):
        start = 0
        if target > POSITIONS:
            window = -(-(target - POSITIONS) // step)  # behind the first window, the number of that which scores it
            start = min(POSITIONS + window * step, len(ids) - 1) - POSITIONS
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:target]]), langs="en").logits[0, -1].double()
        expected.append(float(logits.log_softmax(0)[ids[target]]))
    (result,) = score(model, tokenizer, [text], lang="en", stride=stride)
    np.testing.assert_allclose(result.logprobs, expected, atol=2e-6, rtol=1e-6)
    assert result.windows == 1 + max(0, -(-(len(ids) - 1 - POSITIONS) // step))


@pytest.fixture(scope="module")
def alone(tokenizer: XLMTokenizer) -> Callable[[str], SentenceScore]:
    """Scores of one text by itself, each computed once."""
    model = make_model(tokenizer.vocab_size)
    return cache(lambda text: score(model, tokenizer, [text], lang="en", ranks=True, entropies=True)[0])


WORDS = st.sampled_from(["the", "dog", "Cat", "xylophone", "sleeping.", "\u00fc", "\n", "  "])


@pytest.mark.filterwarnings("ignore:a text seems to hold several sentences")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(WORDS, max_size=30).map(" ".join), max_size=12),
    batch_size=st.none() | st.integers(1, 5),
    batch_tokens=st.none() | st.integers(1, 60),
)
def test_batches_do_not_change_what_a_text_gets(
    tokenizer: XLMTokenizer,
    alone: Callable[[str], SentenceScore],
    texts: list[str],
    batch_size: int | None,
    batch_tokens: int | None,
) -> None:
    model = make_model(tokenizer.vocab_size)
    results = score(
        model,
        tokenizer,
        texts,
        lang="en",
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        ranks=True,
        entropies=True,
    )
    assert [result.text for result in results] == texts
    for result in results:
        expected = alone(result.text)
        assert result.ids == expected.ids
        assert result.ranks is not None
        # Float32 throughout: only the order of sums differs. The project's bound is 1e-5.
        np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=2e-6, rtol=0)
        np.testing.assert_allclose(result.entropies or (), expected.entropies or (), atol=2e-6, rtol=0)
        assert len(result.ranks) == len(result.ids)


def test_ranks_and_entropies_only_when_asked_for(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    (plain,) = score(model, tokenizer, TEXTS[:1], lang="en")
    assert (plain.ranks, plain.entropies) == (None, None)
    (full,) = score(model, tokenizer, TEXTS[:1], lang="en", ranks=True, entropies=True)
    ids = tokenizer.encode(TEXTS[0], lang="en")
    with torch.no_grad():
        logits = model(torch.tensor([ids]), langs="en").logits[0].double()
    for t in range(len(ids) - 1):
        assert full.ranks is not None
        assert full.entropies is not None
        assert full.ranks[t] == 1 + sum(bool(x > logits[t, ids[t + 1]]) for x in logits[t])
        shares = logits[t].softmax(0)
        assert full.entropies[t] == pytest.approx(float(-(shares * shares.log()).sum()), abs=2e-6)


@pytest.mark.parametrize("stride", [None, 5])
def test_the_most_likely_tokens_at_every_place_of_any_window(tokenizer: XLMTokenizer, stride: int | None) -> None:
    model = make_model(tokenizer.vocab_size)
    texts = ["The small dog", "the dog is " * POSITIONS, ""]
    plain = score(model, tokenizer, texts, lang="en", stride=stride)
    found = score(model, tokenizer, texts, lang="en", stride=stride, ranks=True, top=4)
    vocabulary = tokenizer.get_vocab()
    for text, without, result in zip(texts, plain, found, strict=True):
        assert without.top is None
        assert without.logprobs == result.logprobs
        assert result.top is not None
        assert result.ranks is not None
        assert len(result.top) == len(result.tokens)
        for token, logprob, rank, best in zip(result.tokens, result.logprobs, result.ranks, result.top, strict=True):
            assert len(best) == 4
            assert sorted(best, key=lambda pair: -pair[1]) == list(best)
            # The same number by the same formula; the target's comes from another place of the block.
            assert (rank <= 4) == (token in dict(best))
            assert dict(best).get(token, logprob) == pytest.approx(logprob, abs=1e-6)
        if result.windows == 1:
            with torch.no_grad():
                ids = torch.tensor([tokenizer.encode(text, lang="en")[:-1]])
                shares_TV = model(ids, langs="en").logits[0].double().log_softmax(1)
            for best, shares_V in zip(result.top, shares_TV, strict=True):
                by_hand = shares_V[[vocabulary[token] for token, _ in best]]
                np.testing.assert_allclose([logprob for _, logprob in best], by_hand, atol=2e-6, rtol=1e-6)
                assert int((shares_V > by_hand[-1]).sum()) == 3
    assert found[1].windows > 1


def test_a_word_that_the_tokenizer_lacks_has_its_number() -> None:
    assert _as_tokens([[(1, -0.5), (2, -1.0)]], ["a", "b"]) == ((("b", -0.5), ("<2>", -1.0)),)


def test_a_stream_is_read_and_given_in_windows(tokenizer: XLMTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.corpus.read_ahead.READ_AHEAD_CHARACTERS", 40)
    model = make_model(tokenizer.vocab_size)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for i in range(100):
            read += 1
            yield f"the dog {'x' * (i % 7)}"

    results = score_stream(model, tokenizer, texts(), lang="en", batch_size=3)
    assert read == 0
    found = []
    for i, result in enumerate(results):
        found.append(result)
        assert i < read <= i + 6  # no more than 40 characters ahead
    left, most = list(texts()), 1
    windows: list[list[str]] = []
    while left:
        ends = [n for n in range(1, len(left) + 1) if n == most or sum(map(len, left[:n])) >= 40]
        windows.append(left[: (ends or [len(left)])[0]])
        left, most = left[len(windows[-1]) :], 2 * most
    assert found == [
        result for window in windows for result in score(model, tokenizer, window, lang="en", batch_size=3)
    ]


def test_a_slow_stream_has_its_first_result_after_the_first_text(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for i in range(9000):
            read += 1
            yield f"dog {i % 7}"

    seen = [read for _ in score_stream(model, tokenizer, texts(), lang="en")]
    windows = [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 4095, 8191, 9000]
    assert seen == [next(window for window in windows if i < window) for i in range(9000)]


def test_a_stream_gives_what_stands_before_an_error(tokenizer: XLMTokenizer) -> None:
    results = score_stream(make_model(tokenizer.vocab_size), tokenizer, ["the", cast(str, 3), "dog"], lang="en")
    assert next(results).text == "the"
    with pytest.raises(InputError) as error:
        next(results)
    assert error.value.where == "texts[1]"


def test_a_stream_refuses_at_once_what_it_cannot_do(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="bidirectional"):
        score_stream(make_model(tokenizer.vocab_size, causal=False), tokenizer, [], lang="en")


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_tokens": -1}, {"too_long": "cut"}, {"stride": 0}, {"top": -1}]
)
def test_a_wrong_option_is_refused(tokenizer: XLMTokenizer, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        score(make_model(tokenizer.vocab_size), tokenizer, TEXTS, lang="en", **options)
    assert error.value.where == next(iter(options))


def test_a_single_str_is_refused(tokenizer: XLMTokenizer) -> None:
    with pytest.raises(InputError, match="single str"):
        score(make_model(tokenizer.vocab_size), tokenizer, "the dog", lang="en")


@pytest.mark.parametrize("texts", [{"the": "dog"}, np.array([["the"]])])
def test_what_has_keys_or_columns_is_refused(tokenizer: XLMTokenizer, texts: Any) -> None:
    with pytest.raises(InputError) as error:
        list(score_stream(make_model(tokenizer.vocab_size), tokenizer, texts, lang="en"))
    assert error.value.where == "texts"


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
        score(make_model(tokenizer.vocab_size - 1), tokenizer, [], lang="en")
    assert error.value.where == "tokenizer"
    # A few more rows than tokens are what padding to a round number leaves; many more may be another model's.
    assert len(score(make_model(tokenizer.vocab_size + 127), tokenizer, ["the"], lang="en")) == 1
    with pytest.warns(XLMWarning, match="123 tokens and the model 251 words"):
        assert len(score(make_model(tokenizer.vocab_size + 128), tokenizer, ["the"], lang="en")) == 1


def test_a_forward_that_scoring_would_not_call_is_refused(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    hook = model.register_forward_hook(lambda module, arguments, output: None)
    with pytest.raises(InputError, match="Scoring would bypass the model's custom forward or hooks"):
        score(model, tokenizer, ["the"], lang="en")
    hook.remove()
    assert len(score(model, tokenizer, ["the"], lang="en")) == 1


WITH_A_MODEL = [score, perplexity, lambda *given, **options: list(score_stream(*given, **options)), score_frame]


@pytest.mark.parametrize("function", WITH_A_MODEL)
def test_a_model_and_its_tokenizer_in_that_order(tokenizer: XLMTokenizer, function: Callable[..., Any]) -> None:
    pandas = pytest.importorskip("pandas")
    model = make_model(tokenizer.vocab_size)
    texts = pandas.Series(["the dog"]) if function is score_frame else ["the dog"]
    function(model, tokenizer, texts, lang="en")
    with pytest.raises(InputError, match="The model and the tokenizer are swapped"):
        function(tokenizer, model, texts, lang="en")
    wrong = (None, "xlm-clm-ende-small", 3, object(), model.transformer, model.config)
    for pair in [*((value, tokenizer) for value in wrong), *((model, value) for value in wrong), (model, model)]:
        with pytest.raises(InputError, match="A model and its tokenizer are needed"):
            function(*pair, texts, lang="en")


def test_a_compiled_model_is_scored_too(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    compiled = cast(XLMWithLMHeadModel, torch.compile(model, backend="eager"))
    assert score(compiled, tokenizer, TEXTS, lang="en") == score(model, tokenizer, TEXTS, lang="en")


@pytest.mark.parametrize("function", WITH_A_MODEL[:3])
@pytest.mark.parametrize("texts", [None, 3, b"the dog", object(), np.array("the"), np.array([["the"]]), str, "the dog"])
def test_what_holds_no_texts_is_refused(tokenizer: XLMTokenizer, function: Callable[..., Any], texts: object) -> None:
    with pytest.raises(InputError) as error:
        function(make_model(tokenizer.vocab_size), tokenizer, texts, lang="en")
    assert str(error.value.where).startswith("texts")


def test_a_mapping_or_a_frame_is_no_list_of_texts(tokenizer: XLMTokenizer) -> None:
    """Its keys, or the names of its columns, would be scored."""
    pandas = pytest.importorskip("pandas")
    model = make_model(tokenizer.vocab_size)
    for function in (score, score_stream):
        with pytest.raises(InputError):
            function(model, tokenizer, {"en": ["the dog"]}, lang="en")
    frame = pandas.DataFrame({"text": ["the dog"]})
    with pytest.raises(InputError):
        score_stream(model, tokenizer, frame, lang="en")
    with pytest.raises(InputError):
        perplexity(model, tokenizer, frame, lang="en")


HOSTILE = [None, True, -1, 0.5, math.nan, "x", b"en", [], ["en"], {}, object(), np.zeros(2), torch.zeros(2), str]


def test_unknown_by_token_word_and_text(tokenizer: XLMTokenizer, demo_files: Path) -> None:
    model = make_model(tokenizer.vocab_size)
    text = "the 漢dog is 漢 \u200b dog"
    (result,) = score(model, tokenizer, [text], lang="en")
    assert result.unknowns == tuple(index == tokenizer.unk_token_id for index in result.ids)
    assert result.unknown == sum(result.unknowns) == 2
    assert [word.text for word in result.words if word.unknown] == ["漢dog", "漢"]
    assert pickle.loads(pickle.dumps(result)) == result
    # Without a language, the preset of transformers takes a special token that the text spells for that token.
    plain = open_tokenizer(demo_files, preset="transformers", lang2id=None)
    without = make_model(tokenizer.vocab_size, lang2id={}, use_lang_emb=False)
    (result,) = score(without, plain, ["the <unk> dog"], lang=cast(str, None))
    assert result.tokens == ("the</w>", "<unk>", "dog</w>", "</s>")
    assert (result.unknown, [word.unknown for word in result.words]) == (1, [False, True, False])


OPTIONS = ["lang", "batch_size", "batch_tokens", "ranks", "entropies", "top", "too_long", "stride"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        *((score, name) for name in OPTIONS),
        *((perplexity, name) for name in ("lang", "protocol", "window", "stride", "batch_size", "batch_tokens")),
    ],
)
def test_any_value_of_an_option_is_right_or_an_error_of_ours(
    tokenizer: XLMTokenizer, function: Callable[..., Any], name: str
) -> None:
    model = make_model(tokenizer.vocab_size)
    refused = 0
    for value in HOSTILE:
        options: dict[str, Any] = {"lang": "en", name: value}
        try:
            function(model, tokenizer, ["the dog"], **options)
        except XLMError:
            refused += 1
    assert refused >= len(HOSTILE) - 2


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
    torch.autograd.backward(requested(model(ids, langs="en", labels=ids).loss))
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
    with pytest.warns(XLMWarning) as seen_by_stream:
        assert list(score_stream(model, tokenizer, TEXTS, lang="en")) == results
    assert seen_by_stream[0].filename == __file__


class NumbersTokenizer(XLMTokenizer):
    """Takes texts of ids, so that no codes of 60,000 words are needed."""

    def encode(self, text: str, **_: Any) -> list[int]:  # type: ignore[override]
        return list(map(int, text.split()))


def test_free_memory_can_be_returned_after_every_batch(
    monkeypatch: pytest.MonkeyPatch, tokenizer: XLMTokenizer
) -> None:
    asked: list[int] = []

    class Watched:
        def trim_if_grown(self) -> None:
            asked.append(1)

    monkeypatch.setattr(logprobs, "MallocTrim", Watched)
    score(make_model(tokenizer.vocab_size), tokenizer, ["The dog .", "A cat .", "the grass"], lang="en", batch_size=1)
    assert len(asked) == 3


def test_the_sum_over_a_large_vocabulary_is_exact() -> None:
    # torch's own float32 log_softmax fails this one: it is off by 1e-5 and more.
    model = make_model(60_000)
    torch.nn.init.normal_(cast(LinearHead, model.head).bias, std=4)
    ids = torch.randint(14, 60_000, (POSITIONS,)).tolist()
    vocabulary = Vocabulary(tokens=(*SPECIAL_TOKENS, *map(str, range(14, 60_000))))
    tokenizer = NumbersTokenizer(vocabulary, (("1", "4"),))
    (result,) = score(model, tokenizer, [" ".join(map(str, ids))], lang="en")
    np.testing.assert_allclose(result.logprobs, by_hand(model, ids, 1), atol=5e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_equals_what_the_original_gave(reference: Path, batch_size: int | None) -> None:
    """From raw text: the same tokens, and log-probabilities within 1e-5 (the original's own float32 errs by 6e-6)."""
    folder = reference / "checkpoints" / "clm_ende_multi30k"
    sentences = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["sentences"]
    model = XLMWithLMHeadModel.from_pretrained(folder / "clm_ende_multi30k.pth")
    tokenizer = XLMTokenizer.from_pretrained(
        folder / "clm_ende_multi30k.pth", codes=reference / "published" / "codes_ende"
    )
    assert tokenizer.preset == "original"
    assert len(sentences) == 80
    for lang in ("de", "en"):
        of_lang = [sentence for sentence in sentences if sentence["lang"] == lang]
        results = score(model, tokenizer, [s["text"] for s in of_lang], lang=lang, batch_size=batch_size)
        assert len(results) == len(of_lang) == 40
        for sentence, result in zip(of_lang, results, strict=True):
            assert list(result.ids) == sentence["ids"][1:]
            np.testing.assert_allclose(result.logprobs, sentence["logprobs"], atol=1e-5, rtol=0)


def test_the_old_place_of_the_results_warns() -> None:
    import xlm.scoring.sentence as old

    with pytest.warns(DeprecationWarning, match=r"is now xlm\.scoring\.scorer\.SentenceScore"):
        assert old.SentenceScore is SentenceScore
    with pytest.raises(AttributeError):
        _ = old.Scorer
