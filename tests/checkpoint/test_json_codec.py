"""Oracle: the value itself, after a way through JSON and back."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xlm import XLMError
from xlm.checkpoint.json_codec import check_plain, from_json, has_own_numbers, to_json, without_numpy

NUMBERS = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "|i1", "|u1", "|b1"])
ARRAYS = NUMBERS.flatmap(lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0)))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    ARRAYS,
    ARRAYS.map(lambda array: array.ravel()[0] if array.size else np.float64(1)),
    ARRAYS.map(lambda array: torch.from_numpy(array.copy())),
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.integers()), st.sampled_from(["$tuple", "$dict"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(st.integers(), max_size=3),
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and type, NaN being equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray | np.generic):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return bool(a == b)


@given(VALUES)
def test_there_and_back(value: Any) -> None:
    assert same(from_json(json.loads(json.dumps(to_json(value), allow_nan=False))), value)


@given(VALUES)
def test_without_numpy_opens_with_a_plain_load(value: Any) -> None:
    def plain(item: Any) -> bool:
        if isinstance(item, dict):
            return all(plain(key) and plain(entry) for key, entry in item.items())
        if isinstance(item, list | tuple | set):
            return all(map(plain, item))
        return not isinstance(item, np.ndarray | np.generic)

    assert plain(without_numpy(value))


def test_infinities() -> None:
    assert from_json(to_json([float("inf"), float("-inf")])) == [float("inf"), float("-inf")]
    assert str(from_json(to_json(float("nan")))) == "nan"


@pytest.mark.parametrize("value", [object(), print, np.array([object()]), np.array(["text"]), 1j])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(XLMError, match="cannot be stored"):
        to_json({"key": value})


def nested(levels: int) -> list[Any]:
    """Return a list in a list, so many levels deep."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        {"$unknown": 1},
        {"$array": ["|O", [1], "eJwDAAAAAAE="]},
        {"$array": ["<f8", [3], "eJwDAAAAAAE="]},
        {"$array": ["<f8", [1 << 40], "eJwDAAAAAAE="]},
        {"$array": ["<f8", [-1], "eJwDAAAAAAE="]},
        {"$array": "nonsense"},
        {"$tuple": 3},
        {"$bytes": "é"},
        {"$array": ["f4,,", [1], ""]},
        {"$array": ["(3,)f4", [1], ""]},
        {"$array": [4, [1], ""]},
        [{"$number": ["<f8", [1 << 19], "eJwDAAAAAAE="]}, {"$array": ["<f8", [1 << 20], "eJwDAAAAAAE="]}],
        nested(5000),
    ],
    ids=lambda value: ascii(value)[:40] if isinstance(value, dict) else "list",
)
def test_broken_text_is_an_error(value: object) -> None:
    with pytest.raises(XLMError, match="cannot be read"):
        from_json(value)


def packed_zeros(size: int) -> str:
    """Zeros as ``to_json`` packs them."""
    return base64.b64encode(zlib.compress(bytes(size), 9)).decode()


def test_a_small_text_cannot_become_a_large_array() -> None:
    with pytest.raises(XLMError, match="cannot be read"):
        from_json({"$array": ["|u1", [8], packed_zeros(1 << 24)]})


def test_small_texts_cannot_become_large_arrays_together() -> None:
    array = {"$array": ["|u1", [1 << 22], packed_zeros(1 << 22)]}
    assert [part.size for part in from_json([array] * 2)] == [1 << 22] * 2
    with pytest.raises(XLMError, match="arrays of more than 8,388,608 bytes"):
        from_json([array] * 3)


def test_keys_of_a_pickle_that_are_no_text() -> None:
    assert from_json({1: 2, None: [3]}) == {1: 2, None: [3]}


@pytest.mark.parametrize(
    "value",
    [
        ["x" * (1 << 20)] * 9,
        [b"x" * (1 << 20)] * 9,
        [np.zeros(1 << 17)] * 9,
        [torch.zeros(1 << 17, dtype=torch.float64)] * 9,
        [1 << 2000] * 40_000,
        {"a" * (1 << 23): {"b": 1}},
    ],
    ids=["text", "bytes", "array", "tensor", "numbers", "key"],
)
def test_more_bytes_than_parameters_have(value: object) -> None:
    with pytest.raises(XLMError, match="more than 8,388,608 bytes"):
        check_plain(value, "params")


def test_a_tensor_with_one_place_for_several_numbers() -> None:
    base = torch.arange(24.0)
    own = [
        base,
        base.view(4, 6).T,
        base.view(4, 6)[1:, ::2],
        base[:0].expand(3, 0),
        base[:1],
        base.view(1, 24),
        base[3],
    ]
    assert all(map(has_own_numbers, own))
    shared = [
        base[:6].expand(4, 6),
        base.as_strided((4, 6), (1, 1)),
        base.as_strided((2, 4), (3, 1)),
        base[:1].expand(2),
    ]
    assert not any(map(has_own_numbers, shared))
    for tensor in shared:
        with pytest.raises(XLMError, match="not plain numbers"):
            check_plain({"x": tensor}, "params")
