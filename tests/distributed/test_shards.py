"""Division of files into shards.

Oracle: the rows and windows of each file as the local command reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.distributed.conftest import WORDS
from xlm.corpus.read_ahead import windows
from xlm.corpus.rows import Corpus, Row
from xlm.distributed.shards import Shard, shards_of

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_ROWS = st.builds(
    Row,
    file=st.just("ä"),
    number=st.integers(1),
    text=st.none() | _TEXTS,
    problem=st.none() | st.text(),
    cells=st.none() | st.dictionaries(st.text(max_size=3), st.text() | st.integers()),
)


@given(
    st.lists(st.lists(_ROWS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple), st.booleans(), st.booleans()
)
def test_a_unit_arrives_as_it_was_sent(found: tuple[tuple[Row, ...], ...], last: bool, damaged: bool) -> None:
    shard = Shard(file=3, index=7, windows=found, last=last, damaged=damaged, warnings=("ä: 2 bytes",) * last)
    arrived = Shard.from_bytes(shard.to_bytes())
    assert arrived == shard
    assert arrived.digest == shard.digest


@given(rows=st.integers(0, 40), read_at_once=st.integers(1, 7), windows_per_shard=st.integers(1, 5))
def test_units_are_all_windows_in_order(rows: int, read_at_once: int, windows_per_shard: int) -> None:
    class Given(Corpus):
        """Rows without a file."""

        def __iter__(self) -> Iterator[Row]:
            return iter(listed)

    listed = [Row(file="a", number=number, text=WORDS[number % len(WORDS)]) for number in range(1, rows + 1)]
    shards = list(shards_of(Given([]), file=2, read_at_once=read_at_once, windows_per_shard=windows_per_shard))
    found = [list(window) for shard in shards for window in shard.windows]
    assert found == list(windows(listed, read_at_once=read_at_once))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [shard.last for shard in shards] == [False] * (len(shards) - 1) + [True]
    assert all(len(shard.windows) == windows_per_shard for shard in shards[:-1])
    assert not any(shard.damaged for shard in shards)
    assert len({shard.digest for shard in shards}) == len(shards)


def test_only_the_end_of_a_damaged_file_is_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the dog\n" * 5)
    gone = list(shards_of(Corpus([tmp_path / "gone.txt"]), file=0, read_at_once=2, windows_per_shard=1))
    assert [(shard.last, shard.damaged) for shard in gone] == [(True, True)]
    there = list(shards_of(Corpus([tmp_path / "a.txt"]), file=0, read_at_once=2, windows_per_shard=1))
    assert [shard.damaged for shard in there] == [False] * 3


def test_a_digest_tells_rows_texts_and_windows_apart() -> None:
    def shard(*found: tuple[str, ...]) -> Shard:
        listed = [[Row(file="a", number=number, text=text) for number, text in enumerate(each)] for each in found]
        return Shard(file=0, index=0, windows=tuple(map(tuple, listed)))

    others = [shard(("a", "b")), shard(("a",), ("b",)), shard(("a", "c")), shard(("a", "b", "")), shard(("ab",))]
    assert len({other.digest for other in others}) == len(others)
