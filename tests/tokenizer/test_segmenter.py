"""The fast path. Oracle: the same rules applied to whole texts, without any short cut."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.texts import SNIPPETS, TEXTS
from xlm.tokenizer import batch_segmenter as batch_segmenter_module
from xlm.tokenizer import remembered as remembered_module
from xlm.tokenizer import segmenter as segmenter_module
from xlm.tokenizer.batch_arrays import codes_of, text_of
from xlm.tokenizer.batch_folding import FoldedCodes
from xlm.tokenizer.batch_segmenter import BatchSegmenter
from xlm.tokenizer.folding import fold
from xlm.tokenizer.moses import moses
from xlm.tokenizer.prefixes import LANGUAGE_NAMES
from xlm.tokenizer.rows import Rows

KINDS = [("sacremoses", lang) for lang in ("en", "de", "fr", "ro", "ko", "cs")] + [
    ("perl", lang) for lang in ("en", "de", "fr", "fi", "ca", "tdt", "so", "xx")
]


class Words:
    """Gives for each word the word itself, but twice for one that begins with an e: not all have one value."""

    dtype = "object"

    def one(self, word: str) -> tuple[str, ...]:
        return (word, word) if word.startswith("e") else (word,)

    def __call__(self, words: Sequence[str]) -> tuple[Any, Any]:
        rows = Rows.of([self.one(word) for word in words], self.dtype)
        return rows.values, rows.lengths


def segmenter_of(kind: tuple[str, str], fold: bool) -> BatchSegmenter[str]:
    return BatchSegmenter(moses(*kind), fold_words=fold, of_word=Words().one, of_words=Words())


@pytest.fixture(autouse=True)
def few_texts_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_segmenter_module, "_FEW", -1)


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


@settings(max_examples=50, deadline=None)
@example(texts=["a. ", " a", "", " ", "a.  b", "a.\n", "a\n\n", "\n", "a \n", ". a", ") a. \u2028", "b.\u00a0"])
@example(texts=["Dr. X", "Dr. x", "Dr. 5", "Dr.", "a.b. c", "DOT MULTI", "a.DOTMULTI. b", "\x1f", "a\x1fb. c"])
@given(texts=st.lists(EDGES | TEXTS, min_size=1, max_size=20))
def test_many_texts_at_once_change_nothing(texts: list[str]) -> None:
    for kind in KINDS:
        segmenter = SEGMENTERS[kind, kind[1] in ("en", "ro")]
        expected = [segmenter.by_rules(text) for text in texts]
        assert segmenter.of_texts(texts).lists() == expected, (segmenter._rules.dialect, segmenter._rules.language)
        assert segmenter.of_texts(texts[::-1]).lists() == expected[::-1]  # from what is remembered


def test_folding_of_codes_is_that_of_characters() -> None:
    characters = [character for character in map(chr, range(sys.maxunicode + 1)) if not character.isspace()]
    folded_codes = FoldedCodes()
    for start in range(0, len(characters), 1 << 12):
        some = characters[start : start + (1 << 12)]
        # Beside each other in one word too, where marks are put in order and a sigma may end the word.
        for words in (some, ["".join(some[i : i + 5]) for i in range(0, len(some), 5)]):
            expected = [fold(word) for word in words]
            assert text_of(folded_codes(codes_of(" ".join(words)))).split(" ") == expected
            assert not any(map(str.isspace, "".join(expected)))


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
                assert segmenter.of_texts(["a. b", text, "c"]).lists()[1] == segmenter.by_rules(text)


@pytest.mark.parametrize("kind", [("sacremoses", "en"), ("sacremoses", "de"), ("perl", "de")])
def test_many_texts_at_once_are_the_same(reference: Path, kind: tuple[str, str]) -> None:
    at_once, one_by_one = segmenter_of(kind, True), segmenter_of(kind, True)
    for path in sorted((reference / "tokenizer/text").glob("*.txt")):
        lines = path.read_bytes().decode("utf-8").split("\n")
        assert at_once.of_texts(lines).lists() == list(map(one_by_one, lines)), path.name


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_module, "MOST", 20)
    segmenter = segmenter_of(("sacremoses", "en"), True)
    for i in range(200):
        text = f"word{i}, (word{i}). {'long' * 50} a. {i} b. A b. c c{i}"
        assert segmenter(text) == segmenter.by_rules(text)
        caches = (segmenter._chunks, segmenter._ends, segmenter._words, *segmenter._stops.values())
        assert sum(map(len, caches)) <= 20
    for number in (2, 100):  # what is remembered of two texts has room, of a hundred it has not
        texts = [f"word{i}, word{i}. No. {i} {'long' * 50}" for i in range(number)]
        assert segmenter.of_texts(texts).lists() == [segmenter.by_rules(text) for text in texts]
        assert sum(map(len, caches)) + len(segmenter._tables) <= 20
    segmenter.of_texts(["a b"])
    assert 0 < len(segmenter._tables) <= 20
    assert not any("longlong" in key for cache in caches for key in cache)


@pytest.mark.parametrize("dialect", ["sacremoses", "perl"])
def test_every_language_of_moses(dialect: str) -> None:
    """The short cuts change nothing for any language that there is a list of abbreviations for."""
    text = " ".join((*SNIPPETS, "EU:n l'eau il·lusió ha'u No. 5 z.B. x. 1 U.S. a"))
    for language in LANGUAGE_NAMES.values():
        segmenter = segmenter_of((dialect, language), False)
        assert segmenter(text) == segmenter.by_rules(text), language
        assert len(segmenter(text)) > len(text.split())


@pytest.mark.parametrize("collects", [False, True])
def test_making_lists_leaves_the_garbage_collector_as_it_was(collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        assert Rows.of([[1, 2], [], [3]], "int32").lists() == [[1, 2], [], [3]]
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_two_threads_that_make_lists_do_not_leave_the_garbage_collector_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # The other thread has stopped it when this one looks, and starts it again right after.
    before = gc.isenabled()
    try:
        gc.disable()

        def looked() -> bool:
            gc.enable()
            return False

        monkeypatch.setattr(gc, "isenabled", looked)
        Rows.of([[1, 2]], "int32").lists()
        monkeypatch.undo()
        assert gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()


def test_rows_go_between_values() -> None:
    assert Rows.of([[], [1, 2], [3]], "int32").between(7, 8).lists() == [[7, 8], [7, 1, 2, 8], [7, 3, 8]]
    joined = Rows.joined([Rows.of([[1]], "int32"), Rows.of([[], [2, 0]], "int32")])
    assert joined.lists(objects=np.array(["a", "b", "c"], object)) == [["b"], [], ["c", "a"]]
