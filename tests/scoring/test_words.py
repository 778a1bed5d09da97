"""Words of the raw text.

Oracle: ``str.split``, which knows the same words; the sum over all tokens; and, for a text of words that the tokenizer
keeps whole, the log-probabilities of its tokens one by one.
"""

from __future__ import annotations

import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scoring.small import make_model
from xlm.scoring.score import score
from xlm.scoring.scorer import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

SPACES = " \t\n\r\u2028\u3000"
TEXTS = st.text(st.sampled_from("aTxdog.,'-\"…ü漢\u00ad\x00\U0001f600" + SPACES), max_size=40)


def one(tokenizer: XLMTokenizer, text: str, lang: str = "en") -> SentenceScore:
    return score(make_model(tokenizer.vocab_size), tokenizer, [text], lang=lang)[0]


@pytest.mark.filterwarnings("ignore:a text seems to hold several sentences")
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, lang=st.sampled_from(["de", "en"]))
def test_words_are_those_of_the_raw_text_and_share_all_tokens(tokenizer: XLMTokenizer, text: str, lang: str) -> None:
    result = one(tokenizer, text, lang)
    assert [word.text for word in result.words] == text.split()
    assert all(text[word.start : word.end] == word.text for word in result.words)
    assert sum(word.tokens for word in result.words) == len(result.tokens) - 1
    total = -sum(word.surprisal for word in result.words) + result.logprobs[-1]
    assert total == pytest.approx(result.logprob, abs=1e-9)


def test_each_word_has_its_own_tokens(tokenizer: XLMTokenizer) -> None:
    result = one(tokenizer, "  the dog,\tsleeping … cat.")
    assert [(word.text, word.start, word.end) for word in result.words] == [
        ("the", 2, 5),
        ("dog,", 6, 10),
        ("sleeping", 11, 19),
        ("…", 20, 21),
        ("cat.", 22, 26),
    ]
    place = 0
    for word in result.words:
        assert word.surprisal == pytest.approx(-sum(result.logprobs[place : place + word.tokens]), abs=1e-12)
        pieces = "".join(result.tokens[place : place + word.tokens]).replace("</w>", "")
        assert pieces in (word.text, "...", "<unk>")
        place += word.tokens
    assert place == len(result.tokens) - 1


def test_a_word_that_the_tokenizer_drops_has_no_tokens(tokenizer: XLMTokenizer) -> None:
    result = one(tokenizer, "the \x07 dog")
    assert [(word.text, word.tokens) for word in result.words][1] == ("\x07", 0)
    assert result.words[1].surprisal == 0


def test_an_empty_text_has_no_words(tokenizer: XLMTokenizer) -> None:
    assert one(tokenizer, "").words == one(tokenizer, " \n").words == ()


def test_a_result_can_be_sent_elsewhere_without_its_tokenizer(tokenizer: XLMTokenizer) -> None:
    result = one(tokenizer, "the dog, the cat")
    sent = pickle.dumps(result)
    assert len(sent) < 3000
    assert pickle.loads(sent) == result
    assert pickle.loads(sent).words == result.words
    assert pickle.loads(pickle.dumps(pickle.loads(sent))).words == result.words
