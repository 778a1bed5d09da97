"""``scripts/deduplicate_text.py``. Oracle: a few lines whose duplicates are known."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from deduplicate_text import Counts, deduplicate, key

from tests.conftest import REPOSITORY
from xlm.errors import InputError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("“Come in!” said he.", "come in said he"),
        ("  two   spaces ", "Two spaces"),
        ("ﬁne", "FINE"),
        ("Straße", "STRASSE".replace("SS", "ẞ")),
        ("a\tb\r", "a b"),
    ],
)
def test_lines_that_are_the_same(one: str, other: str) -> None:
    assert key(one) == key(other) != ""


@pytest.mark.parametrize(("one", "other"), [("schon", "schön"), ("a b", "ab"), ("er 1", "er 2")])
def test_lines_that_are_not(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_each_line_stays_once_and_what_is_held_out_goes(tmp_path: Path) -> None:
    first, second, held_out = tmp_path / "first.txt", tmp_path / "second.txt.gz", tmp_path / "held.txt"
    first.write_text("One.\n…\n\nTwo!\none\nThree\n", encoding="utf-8")
    second.write_bytes(gzip.compress("  TWO\nVier\r\nfünf\u2028sechs\nVier\nlast".encode()))
    held_out.write_text("THREE?\nlast.\n", encoding="utf-8")
    counts = deduplicate([first, second], [held_out], tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_bytes() == "One.\nTwo!\nVier\nfünf\u2028sechs\n".encode()
    assert counts == [
        Counts(kept=2, repeated=1, held_out=1, empty=2),
        Counts(kept=2, repeated=2, held_out=1, empty=0),
    ]


def test_nothing_is_left_behind_when_a_text_is_broken(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        deduplicate([tmp_path / "text.txt"], [], tmp_path / "out.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_the_command_prints_the_counts(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a\nA\nb\n", encoding="utf-8")
    script = [sys.executable, str(REPOSITORY / "scripts" / "deduplicate_text.py"), "--output", "out.txt"]
    done = subprocess.run([*script, "text.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (
        0,
        "text\tkept\trepeated\theld out\tempty\ntext.txt\t2\t1\t0\t0\n",
    )
    missing = subprocess.run([*script, "nothing.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert missing.returncode == 1
    assert "nothing.txt" in missing.stderr
