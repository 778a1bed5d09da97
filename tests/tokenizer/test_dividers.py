"""Chinese, Japanese and Thai. Oracle: live transformers where the libraries are installed; else what is said then."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import DependencyError
from xlm.tokenizer import dividers
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.mark.parametrize(("lang", "module"), [("zh", "rjieba"), ("th", "pythainlp.tokenize"), ("ja", "Mykytea")])
def test_a_missing_library_names_its_extra(lang: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    dividers._kytea.cache_clear()
    with pytest.raises(DependencyError, match=rf"(?s){module}.*pip install 'xlm\[{lang}\]'"):
        XLMTokenizer(VOCABULARY, MERGES).encode("text", lang=lang)


@pytest.mark.parametrize("lowers", [True, False])
def test_words_come_from_the_library(lowers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = {
        "rjieba": SimpleNamespace(cut=lambda text: ["the", "，", "dog"]),
        "pythainlp.tokenize": SimpleNamespace(word_tokenize=lambda text: ["the", " ", "", "dog"]),
    }
    monkeypatch.setattr(importlib, "import_module", libraries.__getitem__)
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=lowers)
    assert tokenizer.tokenize("the，dog", lang="zh") == ["the</w>", ",</w>", "dog</w>"]
    spaces = [] if lowers else ["", "</w>"]  # what transformers makes of a word that is a space
    assert tokenizer.tokenize("the dog", lang="th") == ["the</w>", *spaces, "dog</w>"]
    assert tokenizer.encode("the dog", lang="th")[1:-1] == tokenizer.convert_tokens_to_ids(
        ["the</w>", *spaces, "dog</w>"]
    )


@pytest.mark.parametrize(("lang", "module"), [("zh", "rjieba"), ("th", "pythainlp")])
def test_equals_transformers(reference: Path, lang: str, module: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    directory = reference / "published/xlm-clm-ende-1024"
    peer = transformers.XLMTokenizer.from_pretrained(directory)
    tokenizer = XLMTokenizer.from_pretrained(directory, lang2id=None)
    for line in (reference / f"tokenizer/text/udhr.{lang}.txt").read_text(encoding="utf-8").split("\n"):
        assert tokenizer.tokenize(line, lang=lang) == peer._tokenize(line, lang=lang)
