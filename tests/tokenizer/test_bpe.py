"""BPE of one word, plain and fast. Oracles: the algorithm of the paper, written here, and fastBPE where installed."""

from __future__ import annotations

import pickle
import random
import time
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.small import MERGES, VOCABULARY, merge_everywhere, merges_of_choices
from xlm.tokenizer.bpe import BPE, read_codes, write_codes
from xlm.tokenizer.fast import bpe as fast_module
from xlm.tokenizer.fast.bpe import FastBPE
from xlm.tokenizer.vocabulary import Vocabulary

Merge = tuple[str, str]


def plain_bpe(word: str, merges: tuple[Merge, ...]) -> tuple[str, ...]:
    """Merge the best pair everywhere, until there is none: the algorithm as the paper has it."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        known = [pair for pair in pairwise(pieces) if pair in ranks]
        if not known:
            return tuple(pieces)
        pieces = merge_everywhere(pieces, min(known, key=ranks.__getitem__))


def split(bpe: BPE, word: str) -> tuple[str, ...]:
    """Return the pieces of a word, the same by both implementations."""
    pieces = bpe.split(word)
    assert FastBPE(bpe, {}, 0).split(word) == pieces
    return tuple(pieces)


PIECES = ["".join(letters) + end for n in (1, 2, 3) for letters in product("ab", repeat=n) for end in ("", "</w>")]


# Merges in any order, not only one that could have been learnt: there a later merge can make an earlier one possible.
@settings(max_examples=500)
@given(
    merges=st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(PIECES)), unique=True, max_size=30),
    word=st.text("ab", min_size=1, max_size=30),
)
def test_equals_the_plain_algorithm_for_any_merges(merges: list[Merge], word: str) -> None:
    assert split(BPE(merges), word) == plain_bpe(word, tuple(merges))


@settings(deadline=None)
@given(word=st.text(st.sampled_from("thedogrunißuläsz'."), min_size=1, max_size=200))
def test_equals_the_plain_algorithm_for_learnt_merges(word: str) -> None:
    pieces = split(BPE(MERGES), word)
    assert pieces == plain_bpe(word, MERGES)
    assert "".join(pieces) == word + "</w>"


@pytest.mark.parametrize(
    ("word", "merges", "expected"),
    [
        ("a", [("a", "b")], ("a</w>",)),
        ("ab", [], ("a", "b</w>")),
        ("ab", [("a", "b")], ("a", "b</w>")),  # the last piece is not b
        ("ab", [("a", "b</w>")], ("ab</w>",)),
        ("aaaa", [("a", "a")], ("aa", "a", "a</w>")),
        ("aaaaa", [("a", "a")], ("aa", "aa", "a</w>")),
        # bc makes (a, bc), which is better than (b, c) and must still not come before the second (b, c)
        ("abcbcd", [("bc", "bc"), ("a", "bc"), ("b", "c")], ("a", "bcbc", "d</w>")),
    ],
)
def test_cases_worked_out_by_hand(word: str, merges: list[Merge], expected: tuple[str, ...]) -> None:
    assert split(BPE(merges), word) == expected


def test_long_words_take_nearly_linear_time() -> None:
    bpe = BPE(MERGES)
    letters = random.Random(0).choices("thedogrunis", k=200_000)

    def seconds(length: int) -> float:
        start = time.process_time()
        split(bpe, "".join(letters[:length]))
        return time.process_time() - start

    seconds(1000)
    assert seconds(200_000) < 60 * max(seconds(10_000), 0.01)  # quadratic would be 400 times


def test_a_pickled_one_gives_the_same() -> None:
    bpe = BPE(MERGES)
    assert split(pickle.loads(pickle.dumps(bpe)), "thedog") == split(bpe, "thedog") == plain_bpe("thedog", MERGES)


def in_fastbpe_notation(bpe: BPE, words: list[str]) -> list[str]:
    return [" ".join(" ".join(split(bpe, word)).replace(" ", "@@ ").removesuffix("</w>") for word in words)]


def test_every_piece_of_the_small_text_is_in_the_small_vocabulary() -> None:
    assert {left + right for left, right in MERGES} <= VOCABULARY.ids.keys()


@settings(max_examples=500, deadline=None)
@given(
    choices=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25),
    words=st.lists(st.text("abc", min_size=1, max_size=30), min_size=1),
)
def test_equals_the_plain_algorithm_for_merges_in_order(choices: list[tuple[int, int]], words: list[str]) -> None:
    merges = merges_of_choices(choices)
    bpe = BPE(merges)
    assert bpe.learnt
    for word in words:
        assert split(bpe, word) == plain_bpe(word, merges)


def test_pieces_outside_the_vocabulary_are_split_again_as_fastbpe_does(tmp_path: Path) -> None:
    fast_bpe = pytest.importorskip("fastBPE")
    write_codes(tmp_path / "codes", MERGES)
    generator = random.Random(2)
    words = ["".join(generator.choices("thedogrunißuläsz", k=generator.randint(1, 20))) for _ in range(1000)]
    for share in (0.0, 0.3, 0.7):
        known = [token for token in VOCABULARY.tokens[14:] if generator.random() < share]
        text = "".join(f"{token[:-4] if token.endswith('</w>') else token + '@@'} 1\n" for token in known)
        (tmp_path / "vocab").write_text(text or "x 1\n", encoding="utf-8")
        peer = fast_bpe.fastBPE(str(tmp_path / "codes"), str(tmp_path / "vocab"))
        assert in_fastbpe_notation(BPE(MERGES, frozenset(known)), words) == peer.apply([" ".join(words)])


# What fastBPE makes of it: the last merge that produces a piece splits it, even if its parts are made later.
def test_pieces_of_merges_that_bpe_did_not_learn_are_split_by_the_last_merge() -> None:
    merges = (("b", "b"), ("bb", "b"), ("b", "bb"))
    bpe = BPE(merges, frozenset({"b", "bb", "x</w>"}))
    assert bpe.limit(bpe.split("bbbx")) == ["b", "bb", "x</w>"]


def test_merges_that_bpe_did_not_learn_equal_fastbpe(tmp_path: Path) -> None:
    fast_bpe = pytest.importorskip("fastBPE")
    for seed in range(100):
        generator = random.Random(seed)
        pieces = [*"abc", *(f"{letter}</w>" for letter in "abc")]
        merges: list[tuple[str, str]] = []
        for _ in range(12):
            left = generator.choice([piece for piece in pieces if not piece.endswith("</w>")])
            right = generator.choice(pieces)
            merges += [(left, right)] * ((left, right) not in merges)
            pieces.append(left + right)
        if seed % 2:
            generator.shuffle(merges)
        write_codes(tmp_path / "codes", tuple(merges))
        known = frozenset(piece for piece in pieces if generator.random() < 0.5) | {"a"}
        text = "".join(f"{token[:-4] if token.endswith('</w>') else token + '@@'} 1\n" for token in sorted(known))
        (tmp_path / "vocab").write_text(text, encoding="utf-8")
        peer = fast_bpe.fastBPE(str(tmp_path / "codes"), str(tmp_path / "vocab"))
        words = ["".join(generator.choices("abc", k=generator.randint(1, 8))) for _ in range(30)]
        assert in_fastbpe_notation(BPE(tuple(merges), known), words) == peer.apply([" ".join(words)]), seed


@pytest.mark.parametrize("limited", [False, True])
def test_all_words_of_the_reference_texts_equal_fastbpe(reference: Path, limited: bool) -> None:
    fast_bpe = pytest.importorskip("fastBPE")
    codes, vocab = reference / "published/codes_ende", reference / "published/vocab_ende"
    peer = fast_bpe.fastBPE(str(codes), str(vocab) if limited else "")
    bpe = BPE(read_codes(codes), Vocabulary.from_words(vocab).ids if limited else None)
    words: set[str] = set()
    for path in (reference / "tokenizer/text").glob("*.txt"):
        # fastBPE reads lines divided by spaces; it cannot take a line of nothing but other whitespace
        words.update(word for word in path.read_bytes().decode("utf-8").split() if "\x00" not in word)
    ordered = sorted(words)
    assert len(ordered) > 100_000
    assert in_fastbpe_notation(bpe, ordered) == peer.apply([" ".join(ordered)])


# The windows of very long words, made short: what meets at their edges must not show.
@settings(max_examples=1000, deadline=None)
@given(
    choices=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=40),
    word=st.text("abc", min_size=12, max_size=120),
    window=st.integers(6, 20),
    overlap=st.integers(1, 4),
)
def test_windows_of_long_words_change_nothing(
    choices: list[tuple[int, int]], word: str, window: int, overlap: int
) -> None:
    bpe = BPE(merges_of_choices(choices))
    assert bpe.learnt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_module, "_LONG_WORD", 0)
        patch.setattr(fast_module, "_WINDOW", window)
        patch.setattr(fast_module, "_OVERLAP", overlap)
        assert FastBPE(bpe, {}, 0).split(word) == bpe.split(word)


def test_windows_of_long_words_change_nothing_with_the_published_codes(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpe = BPE(read_codes(reference / "published/codes_ende"))
    text = (reference / "tokenizer/text/newstest2014.de.txt").read_text(encoding="utf-8")[:100_000]
    monkeypatch.setattr(fast_module, "_WINDOW", 700)
    for word in ("".join(text.split()), "ab" * 20_000, "a" * 20_001, "-" * 10_000):
        assert FastBPE(bpe, {}, 0).split(word) == bpe.split(word)
