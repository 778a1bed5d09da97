"""What ``scripts/compare_with_transformers.py`` measures by running transformers.

Oracle: this library's own model and tokenizer presets, in the plainest way, one text at a time; for ``generate`` the
logits that a real call returns; for tokens the recursive definition of a longest common subsequence.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import compare_with_transformers as script
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.demo_files import write_demo_files
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.errors import InputError

pytest.importorskip("transformers")

TEXTS = {
    "en": ["The small dog is sleeping on the grass.", "A Dog!", "It's 5 o'clock, St. Paul's."],
    "de": ["Der kleine Hund schläft auf der Wiese.", "Am 3. Mai", "Z.B. schläft der Hund."],
}
# Sums of at most 100 log-probabilities, each from two float32 computations in a different order.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_files(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def found(files: Path) -> Any:
    return script.compare(str(files / "demo.pth"), TEXTS, codes=files / "codes")


@pytest.fixture(scope="module")
def tokenizer(files: Path) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(files / "demo.pth", codes=files / "codes")


def encoded(tokenizer: XLMTokenizer, way: str, text: str, lang: str) -> list[int]:
    """Return the tokens of a text, split by this library's presets."""
    theirs = replace(tokenizer, preset="transformers", bos_token="<s>")
    lowers = replace(theirs, do_lowercase_and_remove_accent=True)
    ids = {
        "training": lambda: tokenizer.encode(text, lang=lang),
        "cased, told the language": lambda: theirs.encode(text, lang=lang),
        "lower-cased": lambda: lowers.encode(text, lang=lang),
        "English rules": lambda: theirs.encode(text),
        "as it comes": lambda: lowers.encode(text),
    }[way]()
    return ids[1:-1]


def test_each_row_that_is_a_forward(found: Any, files: Path, tokenizer: XLMTokenizer) -> None:
    models = {causal: XLMWithLMHeadModel.from_pretrained(files / "demo.pth", causal=causal) for causal in (True, False)}
    rows = [setting for setting in script.SETTINGS if setting.way != "generate"]
    assert len(rows) >= 9
    for lang, texts in TEXTS.items():
        for row in rows:
            logprob = 0.0
            tokens = 0
            for text in texts:
                ids = [row.first, *encoded(tokenizer, row.text, text, lang), 1]
                language = {"right": tokenizer.lang2id[lang], "none": None, "lang_id": 0}[row.language]  # type: ignore[index]
                with torch.inference_mode(), pytest.warns() if language is None else _nothing():
                    models[row.causal]._warned_about_langs = False
                    logits = models[row.causal](torch.tensor([ids]), langs=language).logits[0].double()
                predicted = ids if row.way == "labels" else ids[1:]
                for place, token in enumerate(predicted):
                    scores = logits[place]
                    logprob += float(scores[token]) - math.log(float(scores.exp().sum()))
                tokens += len(predicted)
            figure = found.figures[lang][row.name]
            assert figure.tokens == tokens
            assert figure.logprob == pytest.approx(logprob, abs=CLOSE), row.name
            assert figure.perplexity == pytest.approx(math.exp(-logprob / tokens), rel=1e-5)
            characters = sum(len(text) + 1 for text in texts)
            assert figure.bits_per_character == pytest.approx(-logprob / math.log(2) / characters, rel=1e-5)


class _nothing:  # noqa: N801  # a context manager, like pytest.warns
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_the_rows_of_generate_are_what_generate_returns(
    found: Any, files: Path, tmp_path: Path, tokenizer: XLMTokenizer
) -> None:
    import transformers

    script.write_as_published(XLMWithLMHeadModel.from_pretrained(files / "demo.pth"), tokenizer, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert (settings["causal"], settings["mask_token_id"], settings["lang_id"]) == (False, 0, 0)
    for row in script.SETTINGS:
        if row.way != "generate":
            continue
        for lang, lang_id in (("en", 1), ("de", 0)):
            theirs = transformers.XLMWithLMHeadModel.from_pretrained(tmp_path / "model", causal=row.causal).eval()
            theirs.config.lang_id = 0 if row.language == "lang_id" else lang_id
            logprob = 0.0
            for text in TEXTS[lang]:
                ids = [row.first, *encoded(tokenizer, row.text, text, lang), 1]
                for end in range(1, len(ids)):
                    step = theirs.generate(
                        torch.tensor([ids[:end]]),
                        max_new_tokens=1,
                        do_sample=False,
                        output_logits=True,
                        return_dict_in_generate=True,
                    )
                    logprob += float(step.logits[0][0].double().log_softmax(-1)[ids[end]])
            assert found.figures[lang][row.name].logprob == pytest.approx(logprob, abs=CLOSE), row.name


def test_put_right_it_is_our_score(found: Any) -> None:
    for figures in found.figures.values():
        right = figures[script.RIGHT.name]
        assert figures["xlm.score"].tokens == right.tokens
        assert figures["xlm.score"].logprob == pytest.approx(right.logprob, abs=CLOSE)
        assert len({figure.logprob for figure in figures.values()}) > 6  # the settings change the results


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of a longest common subsequence, by its definition."""

    @cache
    def of(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + of(i + 1, j + 1)
        return max(of(i + 1, j), of(i, j + 1))

    return of(0, 0)


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_differing_tokens(a: list[int], b: list[int]) -> None:
    assert script.differing_tokens(a, b) == len(a) - common(a, b)


def test_the_counts_of_tokens(found: Any, tokenizer: XLMTokenizer) -> None:
    for lang, texts in TEXTS.items():
        for way, counted in found.tokens[lang].items():
            pairs = [
                (encoded(tokenizer, "training", text, lang), encoded(tokenizer, way, text, lang)) for text in texts
            ]
            assert counted.lines == len(texts)
            assert counted.lines_that_differ == sum(a != b for a, b in pairs)
            assert counted.tokens == sum(len(a) for a, _ in pairs)
            assert counted.tokens_that_differ == sum(len(a) - common(a, b) for a, b in pairs)
    assert found.tokens["de"]["as it comes"].tokens_that_differ > 0


def test_the_command(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compare_with_transformers.py", *map(str, arguments)])
        with warnings.catch_warnings():
            status = script.main()
        return (status, *capsys.readouterr())

    text = tmp_path / "text"
    text.write_text("The dog\n\nA dog\nThe grass\n", encoding="utf-8")
    status, printed, _ = run(
        files / "demo.pth", "--codes", files / "codes", "--text", f"en={text}", "--lines", 2, "--json", tmp_path / "out"
    )
    assert status == 0
    assert "| xlm.score" in printed
    written = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    (model,) = written["models"]
    assert list(model["figures"]) == ["en"]
    assert model["tokens"]["en"]["as it comes"]["lines"] == 2
    status, _, errors = run(tmp_path / "no-such-model")
    assert status == 1
    assert errors.startswith("Error: ")


def test_a_text_that_is_too_long_is_one_message(files: Path) -> None:
    model = XLMWithLMHeadModel.from_pretrained(files / "demo.pth")
    text = "The small dog " * model.config.max_position_embeddings
    with pytest.raises(InputError, match="too long") as error:
        script.compare(str(files / "demo.pth"), {"en": [*TEXTS["en"], text]}, codes=files / "codes")
    assert error.value.where == "the texts in en"
    assert "The small dog" in str(error.value.found)


def test_only_line_feeds_end_a_text(tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes("a\u2028b\x85c\x0bd\re\n\n f\n".encode())
    assert script._read(tmp_path / "texts", 2) == ["a\u2028b\x85c\x0bd\re", " f"]
