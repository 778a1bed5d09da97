"""What the page is told.

Oracles: ``xlm.score`` and ``model.generate`` of the same model, number by number; ``xlm score`` and ``xlm plot`` for
what is saved; the text that was sent, character by character.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.explore.small import PRESETS, Small, examples
from xlm.cli import xlm
from xlm.errors import InputError, LanguageError
from xlm.explore.explorer import Explorer
from xlm.explore.requests import ContinueRequest
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.figure import draw_surprisals
from xlm.scoring.score import score
from xlm.tokenizer.incremental_detokenizer import IncrementalDetokenizer
from xlm.tokenizer.tokenizer import XLMTokenizer

TEXTS = [
    "Two lines.\nA dog \n",
    "The small dog is sleeping on the grass.",
    "  der\tHund\n\n und 漢 \U0001f600 ",
    "",
    "the dog is " * 30,
]
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
    lines = [
        "".join(word["before"] + word["text"] for word in line["words"]) + line["after"] for line in answer["lines"]
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("text", TEXTS + HOSTILE, ids=ascii)
@pytest.mark.parametrize(("lang", "preset"), [("en", None), ("de", "original"), ("en", "transformers")])
def test_a_score_is_that_of_xlm_score(small: Small, text: str, lang: str, preset: str | None) -> None:
    response = asked(small, "/api/score", text=text, lang=lang, preset=preset, top=5)
    answer = response.json()
    response.content.decode("ascii")
    tokenizer = small.tokenizers[preset or "original"]
    written = text.split("\n")
    sentences = [line for line in written if line.strip()]
    results = score(small.model, tokenizer, sentences, lang=lang, ranks=True, entropies=True, top=5)
    assert [line["end"] is None for line in answer["lines"]] == [line not in sentences for line in written]
    for line, expected in zip([line for line in answer["lines"] if line["end"]], results, strict=True):
        tokens = [token for word in line["words"] for token in word["tokens"]] + [line["end"]]
        assert [token["token"] for token in tokens] == list(expected.tokens)
        assert [token["logprob"] for token in tokens] == list(expected.logprobs)
        assert tuple(token["rank"] for token in tokens) == expected.ranks
        assert tuple(token["entropy"] for token in tokens) == expected.entropies
        assert tuple(token["unknown"] for token in tokens) == expected.unknowns
        assert tuple(tuple(map(tuple, token["top"])) for token in tokens) == expected.top
        assert [word["text"] for word in line["words"]] == [word.text for word in expected.words]
        for word, of_word in zip(line["words"], expected.words, strict=True):
            assert -sum(token["logprob"] for token in word["tokens"]) == pytest.approx(of_word.surprisal, abs=1e-9)
    assert answer["logprob"] == math.fsum(expected.logprob for expected in results)
    assert answer["tokens"] == sum(len(expected.tokens) for expected in results)
    assert answer["windows"] == max([expected.windows for expected in results], default=1)
    assert (answer["lang"], answer["preset"]) == (lang, preset or "original")
    assert whole(answer) == text


@pytest.mark.parametrize("documents", [True, False])
def test_context_and_lines_before_are_given(small: Small, documents: bool) -> None:
    """Oracle: one forward over the tokens of context and lines, with ``</s>`` around and between them."""
    text = "The dog\nis old.\n\n Der Hund \n\n\nund"
    tokenizer = small.tokenizers["original"]
    expected: list[float] = []
    for sentences in (
        [["The dog", "is old."], ["Der Hund"], ["und"]]
        if documents
        else [[line] for line in text.split("\n") if line.strip()]
    ):
        given = tokenizer.encode("A small", lang="de")[:-1]
        ids = [*given, *(index for line in sentences for index in tokenizer.encode(line, lang="de")[1:])]
        with torch.inference_mode():
            logits_TV = small.model(torch.tensor([ids[:-1]]), langs="de").logits[0]
        logprobs_TV = logits_TV.log_softmax(-1)
        expected += [float(logprobs_TV[place - 1, ids[place]]) for place in range(len(given), len(ids))]
    request: dict[str, Any] = {"text": text, "lang": "de", "prefix": "A small", "documents": documents}
    answer = asked(small, "/api/score", **request).json()
    lines = [line for line in answer["lines"] if line["end"]]
    tokens = [token for line in lines for of in [*line["words"], {"tokens": [line["end"]]}] for token in of["tokens"]]
    assert [token["logprob"] for token in tokens] == pytest.approx(expected, abs=1e-4)
    assert answer["logprob"] == pytest.approx(sum(expected), abs=1e-3)
    assert whole(answer) == text
    rows = [row.split("\t") for row in asked(small, "/api/table", **request, unit="nats").text.splitlines()[1:]]
    assert sorted({int(row[0]) for row in rows}) == ([1, 2, 4, 7] if documents else [1, 2, 3, 4, 5, 6, 7])
    of_lines = [float(row[5]) for row in rows if row[0] in "1247"]
    assert sum(of_lines) == pytest.approx(sum(expected), abs=1e-3)


def test_languages_by_line_and_by_word(small: Small) -> None:
    request = {"text": "The dog\n\nder dog is", "lang": "en", "languages": "de\n\nde en en"}
    texts: list[str] = ["The dog", "der dog is"]
    expected = score(small.model, small.tokenizers["original"], texts, lang=["de", ["de", "en", "en"]])
    answer = asked(small, "/api/score", **request).json()
    of_lines = [line for line in answer["lines"] if line["end"]]
    found = [[token for word in line["words"] for token in word["tokens"]] + [line["end"]] for line in of_lines]
    assert [[token["logprob"] for token in of_line] for of_line in found] == [
        pytest.approx(result.logprobs, abs=1e-5) for result in expected
    ]
    rows = [row.split("\t") for row in asked(small, "/api/table", **request, unit="nats").text.splitlines()[1:]]
    assert [float(row[5]) for row in rows if row[0] == "3"] == pytest.approx(
        [*(-word.surprisal for word in expected[1].words), expected[1].logprobs[-1]], abs=2e-6
    )
    refused = small.client().post("/api/score", json={**request, "languages": "de\n\nde en"})
    assert (refused.status_code, refused.json()["error"]["where"]) == (400, "line 3")


def test_lines_with_several_sentences_are_named(small: Small) -> None:
    answer = asked(small, "/api/score", text="The dog.\nThe dog is old. A cat.\nMr. Dog", lang="en").json()
    assert answer["several"] == [2]


def test_a_table_of_documents_is_that_of_the_command(small: Small, tmp_path: Path) -> None:
    text = "The dog\nis old.\n\nDer Hund"
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizers["original"].save_pretrained(tmp_path / "model")
    (tmp_path / "text").write_text(f"{text}\n", encoding="utf-8")
    command = ["score", tmp_path / "model", tmp_path / "text", "--lang", "de", "--by", "word", "--bits", "--documents"]
    run = CliRunner().invoke(xlm, list(map(str, command)))
    table = asked(small, "/api/table", text=text, lang="de", documents=True).text
    assert [row.split("\t")[:5] for row in table.splitlines()] == [
        row.split("\t")[:5] for row in run.stdout.splitlines()
    ]


def test_the_context_is_continued_too(small: Small) -> None:
    knobs = {"lang": "en", "max_new_tokens": 6, "seed": 3}
    whole_prompt = asked(small, "/api/generate", text="A small dog", **knobs).text
    assert asked(small, "/api/generate", text="dog", prefix="A small", **knobs).text == whole_prompt
    assert asked(small, "/api/generate", text="dog", **knobs).text != whole_prompt


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=()), max_size=60), preset=st.sampled_from(PRESETS))
def test_any_text_comes_back_whole(small: Small, text: str, preset: str) -> None:
    answer = asked(small, "/api/score", text=text, lang="de", preset=preset, top=1).json()
    assert whole(answer) == text
    for line, written in zip(answer["lines"], text.split("\n"), strict=True):
        tokens = [token["token"] for word in line["words"] for token in word["tokens"]]
        ids = small.tokenizers[preset].encode(written, lang="de")[1:-1]
        assert tokens == small.tokenizers[preset].convert_ids_to_tokens(ids)


@pytest.mark.parametrize("text", TEXTS + HOSTILE, ids=ascii)
@pytest.mark.parametrize("unit", ["bits", "nats"])
def test_a_table_is_that_of_the_command(small: Small, tmp_path: Path, text: str, unit: str) -> None:
    small.model.save_pretrained(tmp_path / "model")
    small.tokenizers["original"].save_pretrained(tmp_path / "model")
    table = asked(small, "/api/table", text=text, lang="de", unit=unit)
    assert table.headers["content-type"].startswith("text/tab-separated-values")
    rows = list(csv.reader(io.StringIO(table.text, newline=""), delimiter="\t"))
    if "\ud800" in text:  # a file cannot hold it
        assert rows[1][-1].startswith("error: 'text' is not Unicode text")
        return
    (tmp_path / "text").write_text(f"{text}\n", encoding="utf-8", newline="")
    options = ["--lang", "de", "--by", "word", "--format", "tsv", *["--bits"] * (unit == "bits")]
    run = CliRunner().invoke(xlm, ["score", str(tmp_path / "model"), str(tmp_path / "text"), *options])
    assert run.exit_code == 0, run.stderr
    expected = list(csv.reader(io.StringIO(run.stdout, newline=""), delimiter="\t"))
    assert len(rows) == len(expected)
    for row, of_command in zip(rows, expected, strict=True):
        for column, cell, wanted in zip(rows[0], row, of_command, strict=True):
            if column in ("logprob", "bits") and row is not rows[0]:  # the command packs the weights
                assert float(cell) == pytest.approx(float(wanted), abs=1e-4)
            else:
                assert cell == wanted


@pytest.mark.parametrize("unit", ["bits", "nats"])
def test_a_picture_is_that_of_xlm_plot(small: Small, tmp_path: Path, unit: str) -> None:
    pytest.importorskip("matplotlib")
    picture = asked(small, "/api/picture", text="The dog\n\n is old", lang="de", preset="transformers", unit=unit)
    assert picture.headers["content-type"] == "image/png"
    results = score(small.model, small.tokenizers["transformers"], ["The dog", " is old"], lang="de")
    draw_surprisals([[result] for result in results], tmp_path / "expected.png", unit=unit)
    assert picture.content == (tmp_path / "expected.png").read_bytes()


def test_what_cannot_be_exported_is_told(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(path: str, **content: Any) -> tuple[int, str]:
        response = small.client().post(path, json={"text": "The dog", "lang": "en", **content})
        return response.status_code, " ".join(response.json()["error"].values())

    for path in ("/api/table", "/api/picture"):
        assert refusal(path, unit="hartleys") == (400, refusal(path, unit=["bits"])[1])
        assert "'bits' or 'nats'" in refusal(path, unit="hartleys")[1]
        assert refusal(path, top=3)[0] == refusal(path, lang="fr")[0] == 400
        assert refusal(path, text="! " * 3000)[0] == 413
    assert "at least one panel" in refusal("/api/picture", text=" \n ")[1]
    status, told = refusal("/api/picture", text="a\n" * 41)
    assert (status, "41 lines of words" in told) == (400, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'xlm[plot]'" in refusal("/api/picture")[1]


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
