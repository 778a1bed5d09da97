"""Files cut into units of work.

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
from xlm.distributed.units import Unit, units_of

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_ROWS = st.builds(Row, file=st.just("ä"), number=st.integers(1), text=st.none() | _TEXTS, problem=st.none() | st.text())


@given(
    st.lists(st.lists(_ROWS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple), st.booleans(), st.booleans()
)
def test_a_unit_arrives_as_it_was_sent(found: tuple[tuple[Row, ...], ...], last: bool, damaged: bool) -> None:
    unit = Unit(file=3, index=7, windows=found, last=last, damaged=damaged, warnings=("ä: 2 bytes",) * last)
    arrived = Unit.from_bytes(unit.to_bytes())
    assert arrived == unit
    assert arrived.digest == unit.digest


@given(rows=st.integers(0, 40), read_at_once=st.integers(1, 7), windows_per_unit=st.integers(1, 5))
def test_units_are_all_windows_in_order(rows: int, read_at_once: int, windows_per_unit: int) -> None:
    class Given(Corpus):
        """Rows that are in no file."""

        def __iter__(self) -> Iterator[Row]:
            return iter(listed)

    listed = [Row(file="a", number=number, text=WORDS[number % len(WORDS)]) for number in range(1, rows + 1)]
    units = list(units_of(Given([]), file=2, read_at_once=read_at_once, windows_per_unit=windows_per_unit))
    found = [list(window) for unit in units for window in unit.windows]
    assert found == list(windows(listed, read_at_once=read_at_once))
    assert [unit.index for unit in units] == list(range(len(units)))
    assert [unit.last for unit in units] == [False] * (len(units) - 1) + [True]
    assert all(len(unit.windows) == windows_per_unit for unit in units[:-1])
    assert not any(unit.damaged for unit in units)
    assert len({unit.digest for unit in units}) == len(units)


def test_only_the_end_of_a_damaged_file_is_marked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the dog\n" * 5)
    gone = list(units_of(Corpus([tmp_path / "gone.txt"]), file=0, read_at_once=2, windows_per_unit=1))
    assert [(unit.last, unit.damaged) for unit in gone] == [(True, True)]
    there = list(units_of(Corpus([tmp_path / "a.txt"]), file=0, read_at_once=2, windows_per_unit=1))
    assert [unit.damaged for unit in there] == [False] * 3


def test_a_digest_tells_rows_texts_and_windows_apart() -> None:
    def unit(*found: tuple[str, ...]) -> Unit:
        listed = [[Row(file="a", number=number, text=text) for number, text in enumerate(each)] for each in found]
        return Unit(file=0, index=0, windows=tuple(map(tuple, listed)))

    others = [unit(("a", "b")), unit(("a",), ("b",)), unit(("a", "c")), unit(("a", "b", "")), unit(("ab",))]
    assert len({other.digest for other in others}) == len(others)
