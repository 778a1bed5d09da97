"""Chinese, Japanese and Thai. Oracle: live transformers where the libraries are installed; else what is said then."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.fuzzing import check_spans, plain_results
from tests.tokenizer.small import MERGES, VOCABULARY
from tests.tokenizer.texts import TEXTS
from xlm.errors import DependencyError, InputError, LanguageError
from xlm.tokenizer import word_segmenters
from xlm.tokenizer.tokenizer import XLMTokenizer

INSTALLED = [
    pytest.param(lang, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is missing"))
    for lang, name in (("zh", "rjieba"), ("th", "pythainlp"))
]


@pytest.mark.parametrize(("lang", "module"), [("zh", "rjieba"), ("th", "pythainlp.tokenize"), ("ja", "Mykytea")])
def test_a_missing_library_names_its_extra(lang: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    word_segmenters._kytea.cache_clear()
    for return_offsets in (False, True):
        with pytest.raises(DependencyError, match=rf"(?s){module}.*pip install 'xlm\[{lang}\]'"):
            XLMTokenizer(VOCABULARY, MERGES)("text", lang=lang, return_offsets=return_offsets)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, SimpleNamespace]:
    """Libraries that return what a test says, as if they were installed, KyTea's model included."""
    libraries = {
        "rjieba": SimpleNamespace(cut=lambda text: ["the", "，", "dog"]),
        "pythainlp.tokenize": SimpleNamespace(word_tokenize=lambda text: ["the", " ", "", "dog"]),
        "Mykytea": SimpleNamespace(Mykytea=lambda options: SimpleNamespace(getWS=lambda text: ["the", "dog"])),
    }
    monkeypatch.setattr(importlib, "import_module", libraries.__getitem__)
    model = tmp_path / "local/share/kytea/model.bin"
    model.parent.mkdir(parents=True)
    model.touch()
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    word_segmenters._kytea.cache_clear()
    return libraries


@pytest.mark.parametrize("lowers", [True, False])
def test_words_come_from_the_library(lowers: bool, fake: dict[str, SimpleNamespace]) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=lowers)
    assert tokenizer.tokenize("the，dog", lang="zh") == ["the</w>", ",</w>", "dog</w>"]
    assert tokenizer.tokenize("the dog", lang="ja") == ["the</w>", "dog</w>"]
    spaces = [] if lowers else ["", "</w>"]  # what transformers makes of a word that is a space
    assert tokenizer.tokenize("the dog", lang="th") == ["the</w>", *spaces, "dog</w>"]
    assert tokenizer.encode("the dog", lang="th")[1:-1] == tokenizer.convert_tokens_to_ids(
        ["the</w>", *spaces, "dog</w>"]
    )


@pytest.mark.parametrize("lowers", [True, False])
def test_spans_of_what_the_library_divides(lowers: bool, fake: dict[str, SimpleNamespace]) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=lowers)
    for lang, text, expected in (
        ("zh", "the，dog", [(0, 3), (3, 4), (4, 7)]),
        ("ja", "  the\u200b dog", [(2, 6), (7, 10)]),  # what is dropped goes to the word before it
        ("th", "the  dog", [(0, 3), (5, 8)] if lowers else [(0, 3), (3, 5), (3, 5), (5, 8)]),
    ):
        assert tokenizer(text, lang=lang, return_offsets=True)["offsets"][1:-1] == expected
        check_spans(tokenizer, text, lang)


def test_what_does_not_stand_in_the_text_has_no_span(fake: dict[str, SimpleNamespace]) -> None:
    with pytest.raises(DependencyError, match=r"(?s)lang='th'.*'dog'.*without return_offsets"):
        XLMTokenizer(VOCABULARY, MERGES)("the cat", lang="th", return_offsets=True)


@pytest.mark.parametrize("lang", ["zh", "ja", "th"])
def test_the_original_has_no_rules_for_them(lang: str) -> None:
    for return_offsets in (False, True):
        with pytest.raises(LanguageError, match="preset='transformers'"):
            XLMTokenizer(VOCABULARY, MERGES, preset="original")("the", lang=lang, return_offsets=return_offsets)


def test_kytea_needs_its_model(
    fake: dict[str, SimpleNamespace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "elsewhere")
    with pytest.raises(DependencyError, match=r"(?s)model\.bin.*build KyTea"):
        XLMTokenizer(VOCABULARY, MERGES).encode("the", lang="ja")


@pytest.mark.parametrize("lang", INSTALLED)
def test_equals_transformers(reference: Path, lang: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    directory = reference / "published/xlm-clm-ende-1024"
    peer = transformers.XLMTokenizer.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory, lang2id=None)
    for line in (reference / f"tokenizer/text/udhr.{lang}.txt").read_text(encoding="utf-8").split("\n"):
        assert tokenizer.tokenize(line, lang=lang) == peer._tokenize(line, lang=lang)
        check_spans(tokenizer, line, lang)
        assert (tokenizer.tokenize(line, lang), tokenizer.encode(line, lang=lang)) == plain_results(
            tokenizer, line, lang
        )


FORMATS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cf", "Cc")]


@pytest.fixture(scope="module", params=[True, False], ids=["lower-cased", "cased"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[XLMTokenizer, Any]:
    """Our tokenizer and that of transformers, which takes any text for Japanese and makes a word of each character."""
    transformers = pytest.importorskip("transformers")
    ours = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=request.param)
    directory = tmp_path_factory.mktemp("both")
    ours.save_pretrained(directory)
    peer = transformers.XLMTokenizer.from_pretrained(directory)
    peer.ja_word_tokenizer = SimpleNamespace(getWS=list)
    return ours, peer


@pytest.mark.parametrize("lang", [*INSTALLED, "ja"])
def test_spaces_beside_characters_that_are_removed(
    both: tuple[XLMTokenizer, Any], lang: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = both
    monkeypatch.setattr(word_segmenters, "_kytea", lambda: peer.ja_word_tokenizer)
    templates = ("_ \u0e01", ")_ ", "_ )", " _", "a_ b", "a _b", "\u4e2d _\u6587", "_", " _ _ ", "\t_\u3000x_\u00a0")
    for number, format_character in enumerate(FORMATS):
        for text in templates if number % 10 == 0 else templates[:2]:
            text = text.replace("_", format_character)
            assert ours.tokenize(text, lang) == peer._tokenize(text, lang=lang)
            assert ours.tokenize_batch([text], lang) == [ours.tokenize(text, lang)]
            check_spans(ours, text, lang)


@pytest.mark.parametrize("lang", INSTALLED)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="我来到北京。清华 大学，１２３…", lowers=True)
@example(text="สวัสดี ครับ  1,000 บาท", lowers=False)
@given(text=TEXTS, lowers=st.booleans())
def test_any_text(tmp_path: Path, lang: str, text: str, lowers: bool) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=lowers)
    try:
        check_spans(tokenizer, text, lang)
        assert (tokenizer.tokenize(text, lang), tokenizer.encode(text, lang=lang)) == plain_results(
            tokenizer, text, lang
        )
    except InputError:
        assert any("\ud800" <= character <= "\udfff" for character in text)
