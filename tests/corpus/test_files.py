"""Gzip data with all that can follow it or be wrong with it.

Oracle: the bytes that were compressed, by Python's gzip; for padding and trailing bytes, what gzip(1) does.
"""

from __future__ import annotations

import gzip
import io
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.corpus.files import GzipReader

TEXT = b"".join(b"A dog number %d.\n" % (number * number) for number in range(400))
RANDOM = random.Random(7).randbytes(300_000)  # nothing that compresses: many blocks to read


def read(data: bytes, *, trailing: tuple[int, int] | None = None) -> bytes:
    """All bytes, by turns many and few; what was left out must be as expected."""
    found: list[tuple[int, int]] = []
    reader = GzipReader(io.BytesIO(data), on_trailing=lambda *where: found.append(where))
    parts: list[bytes] = []
    while part := reader.read((1, 100, 1 << 16)[len(parts) % 3]):
        parts.append(part)
    assert reader.read(10) == b""
    assert found == ([] if trailing is None else [trailing])
    return b"".join(parts)


def read_until_error(data: bytes, error: type[Exception]) -> bytes:
    """The bytes before the error that must come, and that stays."""
    reader = GzipReader(io.BytesIO(data), on_trailing=lambda *_: pytest.fail("nothing was left out"))
    found = bytearray()
    with pytest.raises(error):  # noqa: PT012  the error ends the loop
        while part := reader.read(1000):
            found += part
    with pytest.raises(error):
        reader.read(1)
    return bytes(found)


@pytest.mark.parametrize("text", [b"", b"a", TEXT, RANDOM, b"\0" * 5_000_000])
def test_members_one_after_the_other(text: bytes) -> None:
    one = gzip.compress(text)
    assert read(one) == text
    assert read(one + gzip.compress(b"") + one) == text * 2
    assert read(one + b"\0" * 100_000) == text  # what tape tools write is no text
    assert read(one + b"\0" * 70_001 + one + b"\0") == text * 2


@pytest.mark.parametrize("text", [b"", TEXT, RANDOM])
@pytest.mark.parametrize("behind", [b"\r\n", b"\x1f", b"garbage", b"\0\0x", b"\n" * 200_000, b"PK\x03\x04" + RANDOM])
def test_what_stands_behind_is_left_out_and_said(text: bytes, behind: bytes) -> None:
    one = gzip.compress(text)
    assert read(one + behind, trailing=(len(behind), len(one))) == text
    assert read(one + one + behind, trailing=(len(behind), 2 * len(one))) == text * 2


@pytest.mark.parametrize("text", [TEXT, RANDOM])
def test_what_is_cut_off_comes_as_far_as_it_goes(text: bytes) -> None:
    one = gzip.compress(text)
    for cut in (*range(2, 40), len(one) // 2, *range(len(one) - 12, len(one))):
        for before in (b"", gzip.compress(b"before")):
            found = read_until_error(before + one[:cut], EOFError)
            expected = zlib.decompressobj(31).decompress(one[:cut])
            assert found == (b"before" if before else b"") + expected
    assert read_until_error(b"", EOFError) == b""


def test_a_wrong_checksum_costs_no_byte() -> None:
    for text in (TEXT, RANDOM):
        one = gzip.compress(text)
        for place in (-8, -4):  # the checksum, the length
            wrong = bytearray(one)
            wrong[place] ^= 1
            assert read_until_error(bytes(wrong), zlib.error) == text
            assert read_until_error(one + bytes(wrong) + one, zlib.error) == text * 2


def test_damage_inside_costs_what_follows() -> None:
    one = bytearray(gzip.compress(TEXT, 1))
    place = len(one) // 2
    one[place : place + 8] = b"\xff" * 8
    found = read_until_error(bytes(one), zlib.error)
    assert len(found) > len(TEXT) // 4
    assert TEXT.startswith(found[: len(TEXT) // 4])


def test_what_is_no_gzip_data() -> None:
    for data in (b"the dog\n", b"\x1f", b"\0\0" + gzip.compress(b"a"), b"BZh9"):
        assert read_until_error(data, gzip.BadGzipFile) == b""
    assert read_until_error(b"\x1f\x8b\x07" + b"x" * 20, zlib.error) == b""
    assert read_until_error(gzip.compress(b"a") + b"\x1f\x8b\x07" + b"x" * 20, zlib.error) == b"a"


@settings(deadline=None)
@given(texts=st.lists(st.binary(max_size=50), min_size=1), padding=st.integers(0, 9), block=st.integers(1, 30))
def test_it_does_not_matter_how_the_bytes_come(texts: list[bytes], padding: int, block: int) -> None:
    class Slow(io.BytesIO):
        """A pipe that has a few bytes at a time."""

        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(block)

    data = (b"\0" * padding).join(map(gzip.compress, texts))
    reader = GzipReader(Slow(data), on_trailing=lambda *_: pytest.fail("nothing was left out"))
    assert reader.read() == b"".join(texts)


def test_little_memory_for_much_text() -> None:
    import tracemalloc

    data = gzip.compress(b"\0" * (1 << 27))
    tracemalloc.start()
    reader = io.BufferedReader(GzipReader(io.BytesIO(data), on_trailing=lambda *_: None))
    size = 0
    while part := reader.read(1 << 16):
        size += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 1 << 27
    assert peak < 1 << 22
