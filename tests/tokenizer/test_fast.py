"""The fast path. Oracles: the specification, ``pipeline.py``; and Moses' rules applied to whole texts."""

from __future__ import annotations

import gc
import random
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.fuzzing import plain_results
from tests.tokenizer.small import MERGES, VOCABULARY
from tests.tokenizer.texts import SNIPPETS, TEXTS
from xlm.tokenizer.added_tokens import AddedToken
from xlm.tokenizer.casefold import casefold, casefold_all, lowercase_and_remove_accent
from xlm.tokenizer.fast import pipeline as pipeline_module
from xlm.tokenizer.fast import segmenter as segmenter_module
from xlm.tokenizer.fast.arrays import RaggedArray
from xlm.tokenizer.fast.batch_bpe import BatchWords
from xlm.tokenizer.fast.batch_segmenter import BatchSegmenter
from xlm.tokenizer.fast.segmenter import MARK, Segmenter
from xlm.tokenizer.moses.data import LANGUAGE_NAMES
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.word_segmenters import LANGUAGES as WRITTEN_WITHOUT_SPACES

KINDS = [("sacremoses", lang) for lang in ("en", "de", "fr", "ro", "ko", "cs")] + [
    ("perl", lang) for lang in ("en", "de", "fr", "fi", "ca", "tdt", "so", "xx")
]


class Words:
    """Gives for each word the word itself, but twice for one that begins with an e: not all have one value."""

    dtype = "object"

    def one(self, word: str) -> tuple[str, ...]:
        return (word, word) if word.startswith("e") else (word,)

    def __call__(self, words: Sequence[str]) -> tuple[Any, Any]:
        rows = RaggedArray.of([self.one(word) for word in words], self.dtype)
        return rows.values, rows.lengths


class Both:
    """One text and many texts, with one budget; and the rules on whole texts."""

    def __init__(self, kind: tuple[str, str], casefolds: bool) -> None:
        self.rules = moses(*kind)
        self.casefolds = casefolds
        self.one: Segmenter[str] = Segmenter(self.rules, casefolds=casefolds, of_word=Words().one)
        self.many = BatchSegmenter(self.one, cast("BatchWords[Any]", Words()))

    def __call__(self, text: str) -> list[str]:
        return self.one(text)

    def of_texts(self, texts: Sequence[str]) -> RaggedArray:
        return self.many(texts)

    def by_rules(self, text: str) -> list[str]:
        words = self.rules.words(text)
        if self.casefolds:
            words = lowercase_and_remove_accent(words)
        return [value for word in words for value in Words().one(word)]


def segmenter_of(kind: tuple[str, str], fold: bool) -> Both:
    return Both(kind, fold)


@pytest.fixture(autouse=True)
def few_texts_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_FEW", -1)


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
        assert segmenter(text) == expected, (segmenter.rules.dialect, segmenter.rules.language)
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
        assert segmenter.of_texts(texts).lists() == expected, (segmenter.rules.dialect, segmenter.rules.language)
        assert segmenter.of_texts(texts[::-1]).lists() == expected[::-1]  # from what is remembered


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_treat_plain_letters_alike(kind: tuple[str, str]) -> None:
    segmenter = SEGMENTERS[kind, False]
    rules = segmenter.rules
    everything = [*map(chr, range(0x80, sys.maxunicode + 1))]
    letters = [*filter(segmenter.one.is_plain_letter, everything)]
    assert (not letters) == (kind[1] == "ro")
    texts = [
        "{}",
        "a{}b {}",
        "1{}.",
        "{}. {}",
        "({}),{} ,",
        "{}'{}",
        "5'{}'",
        "‘{}’ {}’{}",
        "{}:n {} :{}",
        "{}·{}",
        "-{}-.5{}",
    ]
    for letter in random.Random(kind[1]).sample(letters, min(len(letters), 150)):
        like = "é" if rules.is_lower(letter) else "É"
        if rules.is_lower(letter) != (unicodedata.category(letter) == "Ll") or letter in "éÉÂ":
            continue  # not put into one pattern with others
        for text in texts:
            words = rules.words(text.replace("{}", letter))
            assert words == [word.replace(like, letter) for word in rules.words(text.replace("{}", like))], letter


@pytest.mark.parametrize(
    ("kind", "often"), [(("sacremoses", "en"), ""), (("perl", "tdt"), "'ªºʰ"), (("perl", "ca"), "Â·")]
)
def test_texts_in_all_scripts(kind: tuple[str, str], often: str) -> None:
    rng = random.Random(kind[1])
    letters = f"aszASZß9ÂÉéªºǅſβΣςжЖдאبकिไ中ーｓＳ０²Ⅷʿʰ̈\U00010400\U0001d400{3 * often}"
    signs = "''\"‘’“”`´.,:;!?()-—…·。%§\u00a0\u200d"
    texts = [
        " ".join(
            "".join(rng.choices(letters, k=rng.randint(1, 4))).join(rng.choices(["", "", *signs], k=3))
            for _ in range(9)
        )
        for _ in range(500)
    ]
    segmenter = SEGMENTERS[kind, kind[1] == "en"]
    assert segmenter.of_texts(texts).lists() == [segmenter.by_rules(text) for text in texts]


def test_casefold_all_is_casefold_of_each_word() -> None:
    characters = [character for character in map(chr, range(sys.maxunicode + 1)) if not character.isspace()]
    for start in range(0, len(characters), 1 << 12):
        some = characters[start : start + (1 << 12)]
        # Beside each other in one word too, where marks are put in order and a sigma may end the word.
        for words in (some, ["".join(some[i : i + 5]) for i in range(0, len(some), 5)]):
            expected = [casefold(word) for word in words]
            assert casefold_all(words) == expected
            # Spaces and marks divide words, too.
            assert casefold_all([" ".join(words)])[0].split(" ") == expected
            if MARK not in "".join(words):
                assert casefold_all([MARK.join(words)])[0].split(MARK) == expected
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
    monkeypatch.setattr(segmenter_module, "MAX_CACHED", 20)
    segmenter = segmenter_of(("sacremoses", "en"), True)
    one = segmenter.one
    caches = (one._chunks, one._ends, one._words, *one._stops.values())
    for i in range(200):
        text = f"word{i}, (word{i}). {'long' * 50} a. {i} b. A b. c c{i}"
        assert segmenter(text) == segmenter.by_rules(text)
        assert sum(map(len, caches)) <= 20
    for number in (2, 100):  # what is remembered of two texts has room, of a hundred it has not
        texts = [f"word{i}, word{i}. No. {i} {'long' * 50}" for i in range(number)]
        assert segmenter.of_texts(texts).lists() == [segmenter.by_rules(text) for text in texts]
        assert sum(map(len, caches)) + len(segmenter.many) <= 20
    segmenter.of_texts(["a b"])
    assert 0 < len(segmenter.many) <= 20
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
        assert RaggedArray.of([[1, 2], [], [3]], "int32").lists() == [[1, 2], [], [3]]
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
        RaggedArray.of([[1, 2]], "int32").lists()
        monkeypatch.undo()
        assert gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()


def test_rows_go_between_values() -> None:
    assert RaggedArray.of([[], [1, 2], [3]], "int32").between(7, 8).lists() == [[7, 8], [7, 1, 2, 8], [7, 3, 8]]
    joined = RaggedArray.joined([RaggedArray.of([[1]], "int32"), RaggedArray.of([[], [2, 0]], "int32")])
    assert joined.lists(objects=np.array(["a", "b", "c"], object)) == [["b"], [], ["c", "a"]]


# Options act on what stands around a token: with spaces, with other whitespace, inside a word.
ADDED = (
    AddedToken(content="do", lstrip=True, rstrip=True),
    AddedToken(content="dog", single_word=True, lstrip=True),
    AddedToken(content="un", normalized=False),
)
TOKENIZERS = [
    XLMTokenizer(VOCABULARY, MERGES, preset=preset, do_lowercase_and_remove_accent=lowers, added_tokens=ADDED)
    for preset in PRESETS
    for lowers in (True, False)
]


def check_fast_is_plain(tokenizer: XLMTokenizer, texts: list[str], lang: str | None) -> None:
    plain = [plain_results(tokenizer, text, lang) for text in texts]
    assert [(tokenizer.tokenize(text, lang), tokenizer.encode(text, lang=lang)) for text in texts] == plain
    assert tokenizer.tokenize_batch(texts, lang) == [pieces for pieces, _ in plain]
    assert tokenizer.encode_batch(texts, lang=lang) == [ids for _, ids in plain]


@settings(max_examples=200, deadline=None)
@example(texts=["<s>İ the<Dog> dog", "a dog b adog doga \tdog\n un do x<special1> y", " \tdo \n"], lang=None)
@example(texts=["No. 5 x. ' (y )z. DOTMULTI. l'eau \u0301 İ"], lang="fr")
@given(
    texts=st.lists(EDGES | TEXTS, min_size=1, max_size=5),
    lang=st.sampled_from([None, None, "en", "de", "fr", "ro", "fi", "ko", "cs"]),
)
def test_fast_is_plain(texts: list[str], lang: str | None) -> None:
    for tokenizer in TOKENIZERS:
        if lang is not None or not PRESETS[tokenizer.preset].lang_required:
            check_fast_is_plain(tokenizer, texts, lang)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("lowers", [True, False])
def test_fast_is_plain_on_the_recorded_texts(reference: Path, preset: str, lowers: bool) -> None:
    folder = reference / "published/xlm-clm-ende-1024"
    tokenizer = XLMTokenizer.from_pretrained(folder, preset=preset, do_lowercase_and_remove_accent=lowers, lang2id=None)
    for path in sorted((reference / "tokenizer/text").glob("*.txt")):
        lines = path.read_bytes().decode("utf-8").split("\n")
        some = random.Random(path.name).sample(lines, min(len(lines), 10))
        lang = path.stem.rpartition(".")[2]
        divides = lang in LANGUAGE_NAMES.values() and lang not in WRITTEN_WITHOUT_SPACES
        check_fast_is_plain(tokenizer, some, lang if divides else "en")
        if preset != "original":
            check_fast_is_plain(tokenizer, some, None)


@pytest.mark.parametrize("lang", ["fi", "sv"])
def test_chunks_that_the_rules_join_to_the_word_before_them(lang: str) -> None:
    # In Finnish and Swedish, a colon is part of the word, and the rules remove the space before it.
    texts = [f"the dog{number} :n is" for number in range(300)]
    tokenizer = XLMTokenizer(VOCABULARY, MERGES, preset="original")
    assert tokenizer.tokenize_batch(texts, lang) == [
        [token.piece for token in tokenizer.pipeline(text, lang)] for text in texts
    ]
