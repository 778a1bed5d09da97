"""The order of the batches.

Oracle: what the facts about the original say: each language once a round, or shares to a power; each window once a
pass.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.batches import Order, Position
from xlm.errors import InputError


def _take(order: Order, number: int, position: Position | None = None) -> list[tuple[str, int, Position]]:
    taken = []
    position = position or Position()
    for _ in range(number):
        language, window, position = order.next(position)
        taken.append((language, window, position))
    return taken


@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_rounds_and_passes(seed: int, de: int, en: int, shuffle: bool) -> None:
    taken = _take(Order(windows={"de": de, "en": en}, seed=seed, shuffle=shuffle), 60)
    for first, second in zip(taken[::2], taken[1::2], strict=True):
        assert {first[0], second[0]} == {"de", "en"}
    for language, windows in (("de", de), ("en", en)):
        seen = [window for name, window, _ in taken if name == language]
        for start in range(0, len(seen) - windows + 1, windows):
            assert sorted(seen[start : start + windows]) == list(range(windows))
            assert shuffle or seen[start : start + windows] == list(range(windows))


def test_the_seed_decides() -> None:
    def languages_and_windows(seed: int) -> list[tuple[str, int]]:
        return [taken[:2] for taken in _take(Order(windows={"de": 50, "en": 60}, seed=seed), 40)]

    assert languages_and_windows(1) == languages_and_windows(1)
    assert languages_and_windows(1) != languages_and_windows(2)
    first = [window for name, window in languages_and_windows(1) if name == "de"]
    assert first != sorted(first)


def test_passes_differ() -> None:
    windows = [window for _, window, _ in _take(Order(windows={"en": 30}), 60)]
    assert windows[:30] != windows[30:]


@given(st.integers(0, 40), st.sampled_from([None, 0.5]))
def test_from_any_position_on(cut: int, exponent: float | None) -> None:
    order = Order(windows={"de": 7, "en": 3, "fr": 5}, seed=5, exponent=exponent)
    whole = _take(order, 60)
    position = whole[cut - 1][2] if cut else Position()
    again = Order(windows={"de": 7, "en": 3, "fr": 5}, seed=5, exponent=exponent)
    assert _take(again, 60 - cut, Position(**json.loads(json.dumps(dataclasses.asdict(position))))) == whole[cut:]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_shares(exponent: float) -> None:
    windows = {"de": 900, "en": 100}
    drawn = Counter(language for language, _, _ in _take(Order(windows=windows, exponent=exponent, seed=3), 4000))
    expected = 0.9**exponent / (0.9**exponent + 0.1**exponent)
    # Four standard deviations of 4,000 draws; the seed is fixed.
    assert drawn["de"] / 4000 == pytest.approx(expected, abs=0.032)


def test_recorded_order() -> None:
    """These windows may never change, or a run resumed with a later release would take others."""
    taken = _take(Order(windows={"de": 5, "en": 4}, seed=1), 8)
    assert [(language, window) for language, window, _ in taken] == [
        ("de", 2),
        ("en", 0),
        ("de", 4),
        ("en", 2),
        ("en", 1),
        ("de", 3),
        ("en", 3),
        ("de", 1),
    ]


def test_nothing_to_take() -> None:
    with pytest.raises(InputError, match="no text"):
        Order(windows={"de": 0, "en": 3})
    with pytest.raises(InputError, match="no text"):
        Order(windows={})
