"""Learning merges, and the vocabulary that they produce.

Oracle: a learner that counts everything anew for each merge; fastBPE's codes and vocabulary of the Tatoeba text.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.small import learn_merges as learn_slowly
from xlm.data.bpe_learning import Merge, _Learner, count_pieces, count_words, learn_merges
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.bpe import read_codes


@given(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=12), st.integers(1, 12))
@settings(max_examples=300)
def test_few_letters_many_overlaps(words: list[str], number: int) -> None:
    counts = Counter(words)
    found = learn_merges(counts, number)
    possible = len(found)
    assert [(merge.left, merge.right) for merge in found] == list(learn_slowly(" ".join(words), possible))
    assert len(set(found)) == possible
    if possible < number:
        with pytest.raises(ValueError, match="empty"):  # nor does the slow one find another
            learn_slowly(" ".join(words), possible + 1)


@given(st.lists(st.text("abcdeä", min_size=1, max_size=12), min_size=1, max_size=30))
def test_more_letters(words: list[str]) -> None:
    found = learn_merges(Counter(words), 20)
    assert [(merge.left, merge.right) for merge in found] == list(learn_slowly(" ".join(words), len(found)))


def test_counts_and_ties_by_hand() -> None:
    # aaa has the pair a a twice: a a</w> once, a a once. Equally frequent pairs come by spelling.
    assert learn_merges({"aaa": 1}, 5) == [Merge("a", "a", 1), Merge("aa", "a</w>", 1)]
    assert learn_merges({"aaaa": 5}, 1) == [Merge("a", "a", 10)]
    assert learn_merges({"xy": 2, "ab": 2}, 2) == [Merge("a", "b</w>", 2), Merge("x", "y</w>", 2)]
    assert learn_merges({"a": 9}, 2) == []
    with pytest.raises(InputError, match="no words"):
        learn_merges({}, 1)


@pytest.fixture(scope="module")
def tatoeba(reference: Path) -> Counter[str]:
    parts = [count_words(reference / f"bpe/tatoeba-valid.tok.{lang}") for lang in ("de", "en")]
    return parts[0] + parts[1]


def _recorded(path: Path) -> list[tuple[str, str, int]]:
    rows = (line.split(" ") for line in path.read_text("utf-8").split("\n") if line)
    return [(left, right, int(count)) for left, right, count in rows]


def test_fastbpe_wherever_the_count_is_unique(reference: Path, tatoeba: Counter[str]) -> None:
    recorded = _recorded(reference / "bpe/codes")
    found = {(merge.left, merge.right, merge.count) for merge in learn_merges(tatoeba, 3000)}
    assert len(found) == 3000
    occurrences = Counter(count for _, _, count in recorded)
    unique = [row for row in recorded if occurrences[row[2]] == 1]
    assert len(unique) == 146
    assert [row for row in unique if row not in found] == []


def test_fastbpe_at_every_merge(reference: Path, tatoeba: Counter[str]) -> None:
    """Follow its choice among equally frequent pairs: every count agrees, and no other pair is more frequent."""
    learner = _Learner(tatoeba)
    for left, right, count in _recorded(reference / "bpe/codes"):
        pair = learner.names.index(left) << 32 | learner.names.index(right)
        assert learner.counts[pair] == max(learner.counts.values()) == count
        learner.merge(pair)


def test_fastbpe_vocabulary(reference: Path, tatoeba: Counter[str], tmp_path: Path) -> None:
    vocabulary, left_out = count_pieces(tatoeba, read_codes(reference / "bpe/codes"))
    vocabulary.to_words(tmp_path / "vocab")
    assert (tmp_path / "vocab").read_bytes() == (reference / "bpe/vocab").read_bytes()
    assert left_out == []


def test_raw_text_by_our_rules(reference: Path, tatoeba: Counter[str]) -> None:
    parts = [
        count_words(reference / f"text/tatoeba-valid.{lang}.txt", preset="original", lang=lang, workers=workers)
        for lang, workers in (("de", 1), ("en", 2))
    ]
    assert parts[0] + parts[1] == tatoeba


def test_pieces_that_no_vocabulary_file_holds() -> None:
    vocabulary, left_out = count_pieces({"a@@": 2, "<s>": 1, "ab": 1}, [("<", "s"), ("<s", ">"), ("@", "@</w>")])
    assert sorted(left_out) == ["@@</w>"]
    assert vocabulary.counts is not None
    assert dict(zip(vocabulary.tokens[14:], vocabulary.counts[14:], strict=True)) == {
        "a": 3,
        "<s": 1,
        "></w>": 1,
        "b</w>": 1,
    }
    _, left_out = count_pieces({"<s>x": 1}, [("<", "s"), ("<s", ">")])
    assert left_out == ["<s>"]


def test_what_cannot_be_counted(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\n", "utf-8")
    with pytest.raises(InputError, match="No such preset"):
        count_words(tmp_path / "text", preset="x", lang="en")
    with pytest.raises(InputError, match="language of the text is missing"):
        count_words(tmp_path / "text", preset="original")
    with pytest.raises(LanguageError, match="without spaces"):
        count_words(tmp_path / "text", preset="transformers", lang="zh")


def test_only_ascii_spaces_divide_words(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("a b  c\u00a0d\rf\r\n\n e".encode())
    assert count_words(tmp_path / "text") == Counter({"a": 1, "b": 1, "c\u00a0d\rf": 1, "e": 1})
