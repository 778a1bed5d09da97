"""Results as HTML. Oracle: Python's own parser of HTML, and the words of the result."""

from __future__ import annotations

import math
import pickle
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scoring.small import make_model
from tests.scoring.test_words import one
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score, score_documents
from xlm.tokenizer.tokenizer import XLMTokenizer

HOSTILE = [
    "<script>alert(1)</script> <img src=x onerror=alert(1)>",
    "\"><b title='x'>&amp; &lt; </span></div>",
    "a\x00b \x1b[31m \ud800 \u202edlrow\u202c",
]


class Reader(HTMLParser):
    """The elements, and the text and tooltip of each span."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.spans: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag == "span":
            self.spans.append(("", dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.spans:
            self.spans[-1] = (self.spans[-1][0] + data, self.spans[-1][1])


@pytest.fixture(scope="module")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    return make_model(tokenizer.vocab_size)


def test_each_word_has_its_surprisal_and_its_colour(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    (result,) = score(model, tokenizer, ["The  small dog\nxyz"], lang="en")
    page = Reader(result._repr_html_())
    assert [text.strip() for text, _ in page.spans[:-1]] == ["The", "small", "dog", "xyz"]
    assert page.text.startswith("The  small dog\nxyz </s>en: ")
    alphas = []
    for word, (_, attributes) in zip(result.words, page.spans, strict=False):
        bits = word.surprisal / math.log(2)
        title, style = attributes["title"], attributes["style"]
        assert title is not None
        assert style is not None
        assert title.startswith(f"{word.surprisal:.2f} nats ({bits:.2f} bits), ")
        assert ("unknown" in title) == ("underline" in style) == word.unknown
        alphas.append(float(style.partition("rgba(")[2].partition(")")[0].split(",")[3]))
    surprisals = [word.surprisal for word in result.words]
    assert sorted(alphas) == [alpha for _, alpha in sorted(zip(surprisals, alphas, strict=True))]
    assert f"{-result.logprob:.2f} nats" in page.text
    assert any(word.unknown for word in result.words)
    assert page.text.endswith("underlined: unknown to the model")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_text_is_markup(tokenizer: XLMTokenizer, text: str) -> None:
    result = one(tokenizer, text)
    written = result._repr_html_()
    written.encode("utf-8")
    page = Reader(written)
    assert page.elements == ["div", *["span"] * (len(result.words) + 1), "div"]
    assert all(set(attributes) == {"style", "title"} for _, attributes in page.spans)
    printed = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)
    assert page.text.startswith(f"{printed} </s>")


def test_lists_show_their_first_results(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer) -> None:
    texts = ["the dog", "<b>"] * 12
    results = score(model, tokenizer, texts, lang="en")
    assert isinstance(results, list)
    page = Reader(results._repr_html_())  # type: ignore[attr-defined]
    assert page.text.count("</s>") == 20
    assert page.text.endswith("… and 4 more")
    assert set(page.elements) == {"div", "span"}
    documents = score_documents(model, tokenizer, [texts[:2], texts[:1]], lang="en")
    assert Reader(documents._repr_html_()).text.count("</s>") == 3  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(results)) == results
