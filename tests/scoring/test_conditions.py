"""Languages, prefixes, given words, regions and documents.

Oracle: a plain loop over the model, one forward for each token, on ids that the test puts together itself.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scoring.small import POSITIONS, make_model
from xlm import score, score_documents, score_stream
from xlm.errors import InputError, LanguageError, XLMWarning
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.scorer import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

CLOSE: dict[str, Any] = {"atol": 2e-6, "rtol": 1e-6}  # float32 in sums of another order, as in test_score.py
NASTY = [
    "the",
    "dog.",
    "",
    "\u00a0",
    "a\u00a0cat",
    "(\u2026)",
    "don't,",
    "xylophone",
    "\u6f22",
    "\x07",
    "\u00fc!",
    "&",
    " ",
]
LANGUAGE_IDS = {"de": 0, "en": 1}
WORDS = st.lists(st.sampled_from(NASTY), max_size=12)
EXAMPLES = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    return make_model(tokenizer.vocab_size)


def loop(
    model: XLMWithLMHeadModel, ids: Sequence[int], langs: Sequence[int], *, first: int = 1, step: int | None = None
) -> list[float]:
    """The log-probability of each token from ``first`` on, one forward a token, in windows if there are many."""
    step = step or POSITIONS // 2
    result = []
    for target in range(first, len(ids)):
        start = 0
        if target > POSITIONS:
            window = -(-(target - POSITIONS) // step)
            start = min(POSITIONS + window * step, len(ids) - 1) - POSITIONS
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:target]]), langs=torch.tensor([langs[start:target]])).logits[0, -1]
        result.append(float(logits.double().log_softmax(0)[ids[target]]))
    return result


def sentence_ids(tokenizer: XLMTokenizer, text: str, langs: Sequence[str]) -> tuple[list[int], list[int]]:
    """The ids of a text whose words, between blanks, have these languages, and the language id of each."""
    ids: list[int] = []
    of_tokens: list[int] = []
    words = text.split(" ")
    for lang, run in itertools.groupby(range(len(words)), lambda i: langs[i]):
        own = tokenizer.encode(" ".join(words[i] for i in run), lang=lang)[1:-1]
        ids += own
        of_tokens += [LANGUAGE_IDS[lang]] * len(own)
    return ids, of_tokens


def first_of(text: str, span: tuple[int, int]) -> int:
    """The first character of a span that is no space and no control character, which the tokenizer drops."""
    return next((i for i in range(*span) if not text[i].isspace() and text[i] != "\x07"), span[0])


def one(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, **arguments: Any) -> SentenceScore:
    """The result of one text; each argument but the options stands for that text."""
    (result,) = score(model, tokenizer, [text], **arguments)
    return result


def test_one_language_a_text(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    texts, langs = ["the dog", "the dog", "", "A cat."], ["en", "de", "de", "en"]
    results = score(model, tokenizer, texts, lang=langs)
    assert [(result.text, result.lang) for result in results] == list(zip(texts, langs, strict=True))
    assert list(score_stream(model, tokenizer, iter(texts), lang=iter(langs))) == results
    for text, lang, result in zip(texts, langs, results, strict=True):
        ids = tokenizer.encode(text, lang=lang)
        assert result.ids == tuple(ids[1:])
        np.testing.assert_allclose(result.logprobs, loop(model, ids, [LANGUAGE_IDS[lang]] * len(ids)), **CLOSE)


@EXAMPLES
@given(
    words=st.lists(st.sampled_from([word for word in NASTY if word.strip()]), min_size=1, max_size=30), data=st.data()
)
def test_one_language_a_word(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, words: list[str], data: st.DataObject
) -> None:
    """Long texts too: each window has the languages of its own tokens."""
    words = [word.replace("\u00a0", "") for word in words]
    langs = data.draw(st.lists(st.sampled_from(["de", "en"]), min_size=len(words), max_size=len(words)))
    text = " ".join(words)
    result = one(model, tokenizer, text, lang=[langs])
    ids, of_tokens = sentence_ids(tokenizer, text, langs)
    ids, of_tokens = [1, *ids, 1], [LANGUAGE_IDS[langs[0]], *of_tokens, LANGUAGE_IDS[langs[-1]]]
    assert result.lang == tuple(langs)
    assert result.ids == tuple(ids[1:])
    np.testing.assert_allclose(result.logprobs, loop(model, ids, of_tokens), **CLOSE)
    assert [word.text for word in result.words] == words


def test_a_model_without_language_embeddings_takes_languages_for_the_rules(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size, use_lang_emb=False)
    mixed = one(model, tokenizer, "the dog", lang=[["en", "de"]])
    assert mixed.logprobs == one(model, tokenizer, "the dog", lang="en").logprobs


@EXAMPLES
@given(words=WORDS)
def test_without_the_closing_token(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, words: list[str]) -> None:
    text = " ".join(words)
    closed = one(model, tokenizer, text, lang="en", ranks=True, entropies=True, top=2)
    opened = one(model, tokenizer, text, lang="en", ranks=True, entropies=True, top=2, closing=False)
    assert opened.ids == closed.ids[:-1]
    assert not opened.closing
    ids = tokenizer.encode(text, lang="en")[:-1]
    np.testing.assert_allclose(opened.logprobs, loop(model, ids, [1] * len(ids)), **CLOSE)
    for name in ("ranks", "entropies", "top"):
        assert len(getattr(opened, name)) == len(ids) - 1
    assert sum(word.surprisal for word in opened.words) == pytest.approx(-opened.logprob, abs=1e-9)


@EXAMPLES
@given(prefix=WORDS, words=WORDS, stride=st.none() | st.integers(1, POSITIONS))
def test_a_prefix_is_not_scored(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, prefix: list[str], words: list[str], stride: int | None
) -> None:
    """Even if it fills all positions of the model: the windows are those of prefix and text together."""
    before, text = " ".join(3 * prefix), " ".join(words)
    result = one(model, tokenizer, text, lang="en", prefixes=[before], stride=stride)
    joint = f"{before} {text}" if before else text
    encoding = tokenizer(joint, lang="en", return_offsets=True)
    ids = encoding["input_ids"]
    start = len(joint) - len(text)
    begins = [first_of(joint, span) for span in encoding["offsets"][1:-1]]
    first = 1 + sum(begin < start for begin in begins)
    assert result.text == text
    assert result.ids == tuple(ids[first:])
    np.testing.assert_allclose(result.logprobs, loop(model, ids, [1] * len(ids), first=first, step=stride), **CLOSE)
    assert sum(word.surprisal for word in result.words) - result.logprobs[-1] == pytest.approx(-result.logprob)
    assert [(word.text, word.start) for word in result.words] == [
        (word.text, word.start) for word in one(model, tokenizer, text, lang="en").words
    ]


@pytest.mark.parametrize("dropped", ["\x07", "\u200b", "\ufeff", "\x07 \x07"])
def test_words_that_the_tokenizer_drops_have_no_tokens_even_at_the_start(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, dropped: str
) -> None:
    """The tokenizer's offsets give them to the first token."""
    count = len(dropped.split())
    plain = one(model, tokenizer, "the dog", lang="en")
    for result in (
        one(model, tokenizer, f"{dropped} the dog", lang="en"),
        one(model, tokenizer, "the dog", lang="en", prefixes=[dropped]),
    ):
        assert result.logprobs == pytest.approx(plain.logprobs, abs=1e-5)
        found = [(word.tokens, round(word.surprisal, 4)) for word in result.words[-2:]]
        assert found == [(word.tokens, round(word.surprisal, 4)) for word in plain.words]
        assert all(word.tokens == 0 for word in result.words[:-2])
    mixed = one(model, tokenizer, f"the {dropped} dog", lang=[["en", *["de"] * count, "de"]])
    assert [word.tokens for word in mixed.words] == [1, *[0] * count, plain.words[1].tokens]
    attached = one(model, tokenizer, f"{dropped}the dog", lang="en")
    assert [word.tokens for word in attached.words][-2:] == [word.tokens for word in plain.words]


def test_a_target_is_the_joint_text_minus_its_prefix(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    target = one(model, tokenizer, "dog is sleeping.", lang="en", prefixes=["The small"])
    joint = one(model, tokenizer, "The small dog is sleeping.", lang="en")
    before = one(model, tokenizer, "The small", lang="en", closing=False)
    assert target.logprob == pytest.approx(joint.logprob - before.logprob, abs=1e-5)


@EXAMPLES
@given(words=WORDS, lang=st.sampled_from(["de", "en"]))
def test_given_words_and_regions_have_the_tokens_that_begin_in_them(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, words: list[str], lang: str
) -> None:
    text = " ".join(words)
    spans = [(i, j) for i in range(len(text) + 1) for j in (i, i + 1, len(text)) if i <= j <= len(text)]
    result = one(model, tokenizer, text, lang=lang, words=[words], regions=[spans])
    encoding = tokenizer(text, lang=lang, return_offsets=True)
    logprobs = loop(model, encoding["input_ids"], [LANGUAGE_IDS[lang]] * len(encoding["input_ids"]))
    begins = [first_of(text, span) for span in encoding["offsets"][1:-1]]
    assert [word.text for word in result.words] == words
    position = 0
    for word, found in zip(words, result.words, strict=True):
        assert (found.start, found.end) == (position, position + len(word))
        # A word's span and the blank behind it: a token that begins there is the word's.
        own = [i for i, begin in enumerate(begins) if position <= begin < position + len(word) + 1]
        assert found.tokens == len(own)
        assert found.surprisal == pytest.approx(-sum(logprobs[i] for i in own), abs=1e-5)
        position += len(word) + 1
    assert sum(word.surprisal for word in result.words) - result.logprobs[-1] == pytest.approx(-result.logprob)
    assert len(result.regions) == len(spans)
    for (start, end), region in zip(spans, result.regions, strict=True):
        own = [i for i, begin in enumerate(begins) if start <= begin < end]
        assert (region.text, region.start, region.end, region.tokens) == (text[start:end], start, end, len(own))
        assert region.surprisal == pytest.approx(-sum(logprobs[i] for i in own), abs=1e-5)


def test_a_word_without_its_punctuation(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    result = one(model, tokenizer, '\u201ethe dog," (the). \u2026 the.dog: $', lang="en")
    spans = tokenizer(result.text, lang="en", return_offsets=True)["offsets"][1:-1]
    expected: list[tuple[int, int]] = []
    for bare in ["the", "dog", "the", "", "the.dog", "$"]:
        start = result.text.index(bare, expected[-1][1] if expected else 0)
        expected.append((start, start + len(bare)))
    for word, (start, end) in zip(result.words, expected, strict=True):
        own = [i for i, span in enumerate(spans) if start <= span[0] < end]
        assert word.surprisal_without_punctuation == pytest.approx(-sum(result.logprobs[i] for i in own))
        assert (word.surprisal_without_punctuation == word.surprisal) == (word.text == "$")


def test_the_entropy_of_a_word_is_that_of_its_first_token(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    result = one(model, tokenizer, "the sleeping dog.", lang="en", entropies=True)
    assert result.entropies is not None
    place = 0
    for word in result.words:
        assert word.first == place
        assert word.entropy == result.entropies[place]
        place += word.tokens
        assert word.entropy_reduction == word.entropy - result.entropies[place]
    last = one(model, tokenizer, "the", lang="en", entropies=True, closing=False).words[0]
    assert last.entropy is not None
    assert last.entropy_reduction is None
    assert one(model, tokenizer, "the", lang="en").words[0].entropy is None


DOCUMENTS = [
    ["The small dog is sleeping.", "", "A cat!", "don't,\u00a0the \x07 (\u6f22)"],
    [],
    ["the"],
    ["the dog is small", "A dog"] * 5,
]


@pytest.mark.parametrize("closing", [True, False])
@pytest.mark.parametrize("stride", [None, 1, 7])
def test_documents_equal_the_loop(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, stride: int | None, closing: bool
) -> None:
    found = score_documents(model, tokenizer, DOCUMENTS, lang="en", stride=stride, closing=closing)
    assert len(found) == len(DOCUMENTS)
    for document, results in zip(DOCUMENTS, found, strict=True):
        ids = [1, *(index for text in document for index in tokenizer.encode(text, lang="en")[1:])]
        ids = ids if closing else ids[:-1] or ids
        expected = iter(loop(model, ids, [1] * len(ids), step=stride))
        assert [result.text for result in results] == document
        for result in results:
            own = tokenizer.encode(result.text, lang="en")
            assert result.ids == tuple(own[1:] if closing else own[1:-1])
            np.testing.assert_allclose(result.logprobs, list(itertools.islice(expected, len(result.ids))), **CLOSE)
            if not closing:
                next(expected, None)  # </s> between sentences
            end = result.logprobs[-1] if closing else 0
            assert sum(word.surprisal for word in result.words) - end == pytest.approx(-result.logprob)
        assert next(expected, None) is None


def test_documents_with_languages_words_and_regions(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    documents = [["the dog", "A cat ."], ["the  dog"]]
    langs: list[Any] = [["de", ["en", "de", "en"]], "de"]
    words = [[["the", "dog"], ["A", "cat ."]], [["the", "", "dog"]]]
    regions = [[[(0, 3)], []], [[(0, 8)]]]
    with pytest.raises(LanguageError, match="3 languages for 2 words"):
        score_documents(model, tokenizer, documents, lang=langs, words=words)
    found = score_documents(model, tokenizer, documents, lang=langs, regions=regions)
    assert [[result.lang for result in results] for results in found] == [["de", ("en", "de", "en")], ["de"]]
    first, first_langs = sentence_ids(tokenizer, "the dog", ["de", "de"])
    second, second_langs = sentence_ids(tokenizer, "A cat .", ["en", "de", "en"])
    expected = loop(model, [1, *first, 1, *second, 1], [0, *first_langs, 0, *second_langs, 1])
    np.testing.assert_allclose([value for result in found[0] for value in result.logprobs], expected, **CLOSE)
    assert found[0][0].regions[0].surprisal == pytest.approx(-expected[0], abs=1e-5)
    own = score_documents(model, tokenizer, documents, lang="de", words=words)
    assert [[word.text for word in result.words] for results in own for result in results] == [
        words[0][0],
        words[0][1],
        words[1][0],
    ]


def test_a_result_can_be_sent_with_its_words_and_regions(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    result = one(model, tokenizer, "the  dog", lang="en", words=[["the", " dog"]], regions=[[(0, 3)]], prefixes=["A"])
    sent = pickle.loads(pickle.dumps(result))
    assert (sent, sent.words, sent.regions) == (result, result.words, result.regions)
    assert len(sent.words) == 2


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("The dog sleeps. The cat does not.", True),
        ('"The dog sleeps!" Really?', True),
        ("Is it a dog? It is.", True),
        ("Dr. Smith and J. Smith met in the U.S. Army.", False),
        ("Mr. Smith sleeps.", False),
        ("It is 3. Mai.", False),
        ("The dog sleeps... the cat does not.", False),
        ("the dog", False),
        ("", False),
    ],
)
def test_a_text_of_several_sentences_warns_once(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, several: bool
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score(model, tokenizer, [text] * 3, lang="en")
    assert [each.category for each in caught] == [XLMWarning] * several
    if several:
        assert "score_documents" in str(caught[0].message)
        assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "kind", "where"),
    [
        ({"prefixes": ["a", "b"]}, InputError, "texts"),
        ({"prefixes": []}, InputError, "prefixes"),
        ({"prefixes": "a"}, InputError, "prefixes"),
        ({"prefixes": 3}, InputError, "prefixes"),
        ({"prefixes": [3]}, InputError, "texts[0]"),
        ({"words": [["the"]]}, InputError, "texts[0]"),
        ({"words": ["the dog"]}, InputError, "texts[0]"),
        ({"words": [["the", 3]]}, InputError, "texts[0]"),
        ({"regions": [[(0, 8)]]}, InputError, "texts[0]"),
        ({"regions": [[(3, 2)]]}, InputError, "texts[0]"),
        ({"regions": [[0, 3]]}, InputError, "texts[0]"),
        ({"regions": [3]}, InputError, "texts[0]"),
        ({"lang": ["en", "de"]}, InputError, "texts"),
        ({"lang": [["en"]]}, LanguageError, "texts[0]"),
        ({"lang": [["en", "xx"]]}, LanguageError, "texts[0]"),
        ({"lang": ["xx"]}, LanguageError, "texts[0]"),
        ({"lang": [3]}, InputError, "texts[0]"),
        ({"closing": None}, InputError, "closing"),
    ],
)
def test_errors(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, arguments: dict[str, Any], kind: type[Exception], where: str
) -> None:
    with pytest.raises(kind) as found:
        score(model, tokenizer, ["the dog"], **{"lang": "en", **arguments})
    assert getattr(found.value, "where", None) == where


@pytest.mark.parametrize(
    ("documents", "where"),
    [("the dog", "texts"), (["the dog"], "documents[0]: texts"), ([["a"], [3]], "documents[1][0]")],
)
def test_errors_of_documents(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, documents: Any, where: str) -> None:
    with pytest.raises(InputError) as found:
        score_documents(model, tokenizer, documents, lang="en")
    assert found.value.where == where


def test_a_document_longer_than_the_positions_can_be_refused(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer
) -> None:
    with pytest.raises(InputError, match="longer than the model's positions"):
        score_documents(model, tokenizer, DOCUMENTS, lang="en", too_long="refuse")
