"""What the page is told.

Oracles: ``xlm.score`` and ``model.generate`` of the same model, number by number; the text that was sent, character by
character.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.explore.small import PRESETS, Small, examples
from xlm.errors import InputError, LanguageError
from xlm.explore.explorer import Explorer
from xlm.explore.requests import ContinueRequest
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer
from xlm.tokenizer.tokenizer import XLMTokenizer

TEXTS = ["The small dog is sleeping on the grass.", "  der\tHund\n\n und 漢 \U0001f600 ", "", "the dog is " * 30]
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</textarea>&lt;b&gt; \"'`${1}",
    "\u202edlrow\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "a\x00b \x1b[31m \x7f\x85\u2028\u2029",
    "\ud800 x\udfff",
    "{{7*7}} %s {0} \\u0041 </w> </s> <special1>",
]


def asked(small: Small, path: str, **content: Any) -> Any:
    response = small.client().post(path, content=json.dumps(content), headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    return response


def whole(answer: dict[str, Any]) -> str:
    return "".join([*(word["before"] + word["text"] for word in answer["words"]), answer["after"]])


@pytest.mark.parametrize("text", TEXTS + HOSTILE, ids=ascii)
@pytest.mark.parametrize(("lang", "preset"), [("en", None), ("de", "original"), ("en", "transformers")])
def test_a_score_is_that_of_xlm_score(small: Small, text: str, lang: str, preset: str | None) -> None:
    response = asked(small, "/api/score", text=text, lang=lang, preset=preset, top=5)
    answer = response.json()
    response.content.decode("ascii")
    tokenizer = small.tokenizers[preset or "original"]
    (expected,) = score(small.model, tokenizer, [text], lang=lang, ranks=True, entropies=True, top=5)
    tokens = [token for word in answer["words"] for token in word["tokens"]] + [answer["end"]]
    assert [token["token"] for token in tokens] == list(expected.tokens)
    assert [token["logprob"] for token in tokens] == list(expected.logprobs)
    assert tuple(token["rank"] for token in tokens) == expected.ranks
    assert tuple(token["entropy"] for token in tokens) == expected.entropies
    assert tuple(token["unknown"] for token in tokens) == expected.unknowns
    assert tuple(tuple(map(tuple, token["top"])) for token in tokens) == expected.top
    assert (answer["logprob"], answer["windows"]) == (expected.logprob, expected.windows)
    assert (answer["lang"], answer["preset"]) == (lang, preset or "original")
    assert whole(answer) == text
    assert [word["text"] for word in answer["words"]] == [word.text for word in expected.words]
    for word, of_word in zip(answer["words"], expected.words, strict=True):
        assert -sum(token["logprob"] for token in word["tokens"]) == pytest.approx(of_word.surprisal, abs=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=()), max_size=60), preset=st.sampled_from(PRESETS))
def test_any_text_comes_back_whole(small: Small, text: str, preset: str) -> None:
    answer = asked(small, "/api/score", text=text, lang="de", preset=preset, top=1).json()
    assert whole(answer) == text
    tokens = [token["token"] for word in answer["words"] for token in word["tokens"]]
    ids = small.tokenizers[preset].encode(text, lang="de")[1:-1]
    assert tokens == small.tokenizers[preset].convert_ids_to_tokens(ids)


@pytest.mark.parametrize(
    "knobs",
    [
        {"do_sample": False},
        {"seed": 3},
        {"seed": 4, "temperature": 0.7, "top_k": 5, "top_p": None},
        {"seed": 2**53 - 1, "continuation_lang": "de", "top_p": 0.5, "preset": "transformers"},
    ],
    ids=str,
)
def test_a_stream_is_what_generate_gives(small: Small, knobs: dict[str, Any]) -> None:
    prompt = 'The small "dog'
    response = asked(small, "/api/generate", text=prompt, lang="en", max_new_tokens=9, **knobs)
    *steps, last = [json.loads(line) for line in response.text.splitlines()]
    tokenizer = small.tokenizers[knobs.get("preset", "original")]
    ids = [1, *tokenizer.encode(prompt, lang="en", add_special_tokens=False)]
    options = {"top_p": 0.9, "temperature": 1.0, "top_k": None, "seed": None, **knobs}
    if not knobs.get("do_sample", True):
        options = {}
    own = {name: options[name] for name in ("temperature", "top_k", "top_p", "seed") if name in options}
    lang = knobs.get("continuation_lang", "en")
    expected = small.model.generate(
        torch.tensor([ids]),
        langs="en",
        continuation_langs=lang,
        max_new_tokens=9,
        do_sample=knobs.get("do_sample", True),
        **own,
    )[0, len(ids) :].tolist()
    assert [step["id"] for step in steps] == expected
    text = "".join(step["text"] for step in [*steps, last])
    assert text == IncrementalDetokenizer(tokenizer, prompt, ids, lang=lang).whole(expected)
    assert last["tokens"] == len(expected)
    assert last["seed"] == knobs.get("seed")
    assert last["stop"] == ("eos" if expected[-1] == 1 else "max_new_tokens")
    assert last["logprob"] < 0


def test_a_drawn_seed_gives_the_same_again(small: Small) -> None:
    drawn = asked(small, "/api/generate", text="The", lang="en", max_new_tokens=6).text
    seed = json.loads(drawn.splitlines()[-1])["seed"]
    assert isinstance(seed, int)
    assert asked(small, "/api/generate", text="The", lang="en", max_new_tokens=6, seed=seed).text == drawn
    others = {asked(small, "/api/generate", text="The", lang="en", max_new_tokens=6).text for _ in range(3)}
    assert len(others) == 3


def test_a_stream_ends_where_the_positions_do(small: Small) -> None:
    text = "the " * 20
    lines = asked(small, "/api/generate", text=text, lang="en", max_new_tokens=99, seed=1).text.splitlines()
    last = json.loads(lines[-1])
    # 24 positions, of which the prompt and its opening token take 21; the last prediction is not fed.
    assert last["tokens"] <= 4
    assert last["stop"] in ("positions", "eos")


def test_the_page_is_told_what_there_is(small: Small) -> None:
    answer = small.client().get("/api/model").json()
    assert answer["languages"] == ["de", "en"]
    assert (answer["presets"], answer["preset"]) == (list(PRESETS), "original")
    assert (answer["name"], answer["positions"], answer["weights"]) == ("small", 24, "float32")
    assert answer["vocabulary"] == small.model.config.vocab_size
    assert answer["limits"] == {"characters": 10_000, "new_tokens": 512}


def test_languages_that_the_model_lacks_are_refused(small: Small) -> None:
    def opened(languages: list[str]) -> Explorer:
        return Explorer(small.model, lambda _: small.tokenizers["original"], name="x", languages=languages)

    assert opened(["de"]).languages == ("de",)
    with pytest.raises(LanguageError):
        opened(["fr"])


def test_a_bidirectional_model_is_refused(small: Small) -> None:
    model = type(small.model)(replace(small.model.config, causal=False))
    with pytest.raises(InputError, match="bidirectional"):
        Explorer(model, lambda _: small.tokenizers["original"], name="x")


@pytest.mark.parametrize("lang", ["en", "de"])
def test_the_text_that_the_page_begins_with_can_be_continued(lang: str) -> None:
    """By the bundled model, greedily and by most seeds; a finished sentence shows the difference."""
    name = "xlm-clm-ende-small"
    model = XLMWithLMHeadModel.from_pretrained(name)
    explorer = Explorer(model, lambda preset: XLMTokenizer.from_pretrained(name, preset=preset), name=name)

    def added(text: str, **knobs: Any) -> str:
        request = ContinueRequest(text=text, lang=lang, max_new_tokens=12, **knobs)
        return "".join(step["text"] for step in explorer.continuation(request))

    text = examples()[lang]
    assert text[-1].isalpha()
    assert added(text, do_sample=False)
    assert sum(bool(added(text, do_sample=True, top_p=0.9, seed=seed)) for seed in range(8)) >= 7
    assert added(text + ".", do_sample=False) == ""
