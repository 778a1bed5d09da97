"""The fast path. Oracle: the same rules applied to whole texts, without any short cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import SNIPPETS, TEXTS
from xlm.tokenizer import remembered as remembered_module
from xlm.tokenizer import segmenter as segmenter_module
from xlm.tokenizer.batch_segmenter import BatchSegmenter
from xlm.tokenizer.moses import moses
from xlm.tokenizer.prefixes import LANGUAGE_NAMES

KINDS = [("sacremoses", lang) for lang in ("en", "de", "fr", "ro", "ko", "cs")] + [
    ("perl", lang) for lang in ("en", "de", "fr", "fi", "ca", "tdt", "so", "xx")
]


def segmenter_of(kind: tuple[str, str], fold: bool) -> BatchSegmenter[str]:
    return BatchSegmenter(moses(*kind), fold_words=fold, of_word=lambda word: (word,), of_words=zip)


# Kept over all examples, so that what one text leaves behind is what the next one finds.
SEGMENTERS = {(kind, fold): segmenter_of(kind, fold) for kind in KINDS for fold in (False, True)}
EDGES = st.lists(
    st.one_of(
        st.sampled_from("aZ5.,;:!?'\"()-–—[]{}<>%$&`´‘’‚„“”«»…。．\u00a0\u200b\u0301\tºéß中ไº/@#*+=|~^_"),
        st.sampled_from([" ", " ", " ", "St", "z.B.", "No", "Nr", "MULTI", "DOT", "...", "cm", "ºC", "nº"]),
    ),
    max_size=14,
).map("".join)


def check(text: str) -> None:
    for segmenter in SEGMENTERS.values():
        expected = segmenter.by_rules(text)
        assert segmenter(text) == expected, (segmenter._rules.dialect, segmenter._rules.language)
        assert segmenter(text) == expected  # from what is remembered
        for memory in (segmenter._words, segmenter._chunks, segmenter._ends):
            memory.clear()
        assert list(segmenter.of_texts([text, text])) == [expected, expected]


@settings(max_examples=1500, deadline=None)
@example(text="No. 5 no. X")
@example(text="( a ) . b")
@example(text="' 'a ' 5 %")
@example(text='a." "b. c')
@example(text='a." ')
@example(text="a. b\nc. ")
@example(text=" a  b. 5")
@example(text="a.\u200b b")
@given(text=EDGES)
def test_the_short_cut_changes_nothing_at_edges(text: str) -> None:
    check(text)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_the_short_cut_changes_nothing(text: str) -> None:
    check(text)


@pytest.mark.parametrize("kind", [("sacremoses", "en"), ("sacremoses", "de"), ("perl", "de")])
def test_the_short_cut_changes_nothing_on_real_text(reference: Path, kind: tuple[str, str]) -> None:
    segmenter = SEGMENTERS[kind, True]
    compared = 0
    for path in sorted((reference / "tokenizer/text").glob("*.txt")):
        lines = path.read_bytes().decode("utf-8").split("\n")
        generator = random.Random(path.name)
        for line in generator.sample(lines, min(len(lines), 150)):
            shuffled = line.split(" ")
            generator.shuffle(shuffled)
            for text in (line, " ".join(shuffled)):
                compared += 1
                assert segmenter(text) == segmenter.by_rules(text), text
    assert compared > 5000


@settings(max_examples=500, deadline=None)
@example(text="a. b No. 5 x. (y )z.")
@example(text=",0... The ")
@given(text=EDGES | TEXTS)
def test_windows_change_nothing(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for window in (1, 3, 10):
            patch.setattr(segmenter_module, "WINDOW", window)
            for kind in (("sacremoses", "en"), ("sacremoses", "de"), ("perl", "de")):
                segmenter = SEGMENTERS[kind, False]
                assert segmenter(text) == segmenter.by_rules(text)
                assert list(segmenter.of_texts(["a. b", text, "c"]))[1] == segmenter.by_rules(text)


@pytest.mark.parametrize("kind", [("sacremoses", "en"), ("sacremoses", "de"), ("perl", "de")])
def test_many_texts_at_once_are_the_same(reference: Path, kind: tuple[str, str]) -> None:
    at_once, one_by_one = segmenter_of(kind, True), segmenter_of(kind, True)
    for path in sorted((reference / "tokenizer/text").glob("*.txt")):
        lines = path.read_bytes().decode("utf-8").split("\n")
        assert list(at_once.of_texts(lines)) == list(map(one_by_one, lines)), path.name


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_module, "MOST", 20)
    segmenter = segmenter_of(("sacremoses", "en"), True)
    for i in range(200):
        text = f"word{i}, (word{i}). {'long' * 50} a. {i} b. A b. c c{i}"
        assert segmenter(text) == segmenter.by_rules(text)
        caches = (segmenter._chunks, segmenter._ends, segmenter._words, *segmenter._stops.values())
        assert sum(map(len, caches)) <= 20
    list(segmenter.of_texts([f"word{i}, word{i}" for i in range(100)]))
    assert sum(map(len, caches)) <= 20
    assert not any("longlong" in key for cache in caches for key in cache)


@pytest.mark.parametrize("dialect", ["sacremoses", "perl"])
def test_every_language_of_moses(dialect: str) -> None:
    """The short cuts change nothing for any language that there is a list of abbreviations for."""
    text = " ".join((*SNIPPETS, "EU:n l'eau il·lusió ha'u No. 5 z.B. x. 1 U.S. a"))
    for language in LANGUAGE_NAMES.values():
        segmenter = segmenter_of((dialect, language), False)
        assert segmenter(text) == segmenter.by_rules(text), language
        assert len(segmenter(text)) > len(text.split())
