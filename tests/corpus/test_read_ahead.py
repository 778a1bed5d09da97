"""Which rows of a corpus are scored together.

Oracle: the windows of each file by itself.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from xlm.corpus.read_ahead import READ_AHEAD_CHARACTERS, windows
from xlm.corpus.rows import Corpus, Row


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 5))
def test_a_window_never_crosses_the_border_of_files(sizes: list[int], read_at_once: int) -> None:
    # Two of one name are two files, too.
    files = [[Row(file="a", number=number, text="x") for number in range(1, size + 1)] for size in sizes]
    alone = [window for file in files for window in windows(file, read_at_once=read_at_once)]
    together = list(windows([row for file in files for row in file], read_at_once=read_at_once))
    assert together == alone
    assert all(len(window) <= read_at_once for window in together)


def test_characters_are_counted_from_the_beginning_of_a_file() -> None:
    half = "x" * (READ_AHEAD_CHARACTERS // 2)
    file = [Row(file="a", number=number, text=half) for number in (1, 2, 3)]
    assert [len(window) for window in windows([*file, *file])] == [2, 1, 2, 1]


def test_a_file_that_is_gone_is_a_window_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the dog\na cat\n")
    found = windows(Corpus([tmp_path / "a.txt", tmp_path / "gone.txt", tmp_path / "a.txt"]))
    assert [[row.number for row in window] for window in found] == [[1, 2], [1], [1, 2]]
