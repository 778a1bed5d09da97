"""Merges and codes files. Oracles: the published pair of files, and how XLMTokenizer and fastBPE read a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tokenizer.small import MERGES
from xlm.errors import VocabularyError
from xlm.tokenizer.bpe import Merges, read_codes, read_merges, write_codes, write_merges


def test_published_codes_and_merges_are_the_same_in_order(reference: Path, tmp_path: Path) -> None:
    codes, merges = reference / "published/codes_ende", reference / "published/xlm-clm-ende-1024/merges.txt"
    assert read_codes(codes) == read_merges(merges) == read_merges(codes)
    assert len(read_codes(codes)) == 60_000
    write_merges(tmp_path / "merges.txt", read_codes(codes))
    assert (tmp_path / "merges.txt").read_bytes() == merges.read_bytes()
    # how XLMTokenizer reads it
    assert read_merges(merges) == tuple(tuple(m.split()[:2]) for m in merges.read_text("utf-8").split("\n")[:-1])


@pytest.mark.parametrize("name", ["codes_ende", "codes_enfr", "codes_xnli_15"])
def test_published_codes_come_back_byte_for_byte(reference: Path, tmp_path: Path, name: str) -> None:
    source = reference / "published" / name
    counts = [int(line.rpartition(b" ")[2]) for line in source.read_bytes().splitlines()]
    write_codes(tmp_path / name, read_codes(source), counts)
    assert (tmp_path / name).read_bytes() == source.read_bytes()


def test_there_and_back(tmp_path: Path) -> None:
    merges = (*MERGES, ("\u00a0", "\u2028"), ("#version:", "x"))
    write_merges(tmp_path / "merges.txt", merges)
    write_codes(tmp_path / "codes", merges)
    assert read_merges(tmp_path / "merges.txt") == read_codes(tmp_path / "codes") == merges
    assert (tmp_path / "codes").read_text(encoding="utf-8").split("\n")[0].endswith(" 0")


def test_a_version_line_windows_line_ends_and_a_missing_last_one_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\r\na b\r\nab c</w>")
    assert read_merges(tmp_path / "merges.txt") == (("a", "b"), ("ab", "c</w>"))


@pytest.mark.parametrize("read", [read_merges, read_codes])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a b 1\n\xff c 1\n", 2),
        (b"a b 1\nc\n", 2),
        (b"a b 1\n\nc d 1\n", 2),
        (b"a b 1\na  b 1\n", 2),
        (b"a b 1\nc d e 1\n", 2),
        (b"a b 1\nc d x\n", 2),
        (b"a b 1\nc d 1\na b 2\n", 3),
    ],
)
def test_broken_files_name_the_file_and_the_line(
    tmp_path: Path, read: Callable[[Path], Merges], content: bytes, line: int
) -> None:
    path = tmp_path / "codes"
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as caught:
        read(path)
    assert f"where: {path}, line {line}\n" in str(caught.value)


def test_two_columns_are_merges_but_no_codes(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(b"a b\n")
    assert read_merges(tmp_path / "merges.txt") == (("a", "b"),)
    with pytest.raises(VocabularyError, match=r"merges\.txt, line 1"):
        read_codes(tmp_path / "merges.txt")


@pytest.mark.parametrize("content", [b"", b"#version: 0.2\n"])
def test_files_without_merges_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"merges\.txt"):
        read_merges(tmp_path / "merges.txt")
