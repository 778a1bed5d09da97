"""``scripts/filter_corpus.py``. Oracle: cross-entropy differences computed by hand; the lines of the domain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow")

import filter_corpus  # noqa: E402 (it imports pyarrow)
import pyarrow.parquet as parquet  # noqa: E402


def rows(*figures: tuple[int, float | None, int]) -> list[dict[str, Any]]:
    """Return rows of scores from line, log-probability and tokens."""
    return [
        {"line": line, "logprob": logprob, "tokens": tokens, "text": f"text {line}"}
        for line, logprob, tokens in figures
    ]


def test_the_difference_is_per_token() -> None:
    domain = rows((1, -8.0, 4), (2, -9.0, 3), (3, None, 2), (4, -5.0, 1))
    general = rows((1, -12.0, 4), (2, -3.0, 3), (3, -2.0, 2), (4, None, 1))
    found = list(filter_corpus.differences(domain, general))
    assert [(line.number, line.difference, line.text) for line in found] == [(1, -1.0, "text 1"), (2, 2.0, "text 2")]
    assert min(found).number == 1


def test_scores_of_other_lines_are_not_joined() -> None:
    with pytest.raises(ValueError, match="line 1 of one output stands beside line 2"):
        list(filter_corpus.differences(rows((1, -1.0, 1)), rows((2, -1.0, 1))))
    of_file = [[{**row, "file": name} for row in rows((1, -1.0, 1))] for name in ("a", "b")]
    with pytest.raises(ValueError, match="line 1 of one output stands beside line 1"):
        list(filter_corpus.differences(*of_file))
    with pytest.raises(ValueError, match="shorter"):
        list(filter_corpus.differences(rows((1, -1.0, 1), (2, -1.0, 1)), rows((1, -1.0, 1))))


def test_parts_are_read_in_their_order(tmp_path: Path) -> None:
    expected = rows(*((line, -float(line), 1) for line in range(1, 31)))
    for part, first in enumerate(range(0, 30, 10)):
        table = pyarrow.Table.from_pylist(expected[first : first + 10]).append_column("status", [["ok"] * 10])
        parquet.write_table(table, tmp_path / f"part-0000000-{part:07}.parquet")
    with pytest.raises(SystemExit, match="no _SUCCESS"):
        list(filter_corpus.scores(tmp_path))
    (tmp_path / "_SUCCESS").write_text("{}", encoding="utf-8")
    assert [dict(row) for row in filter_corpus.scores(tmp_path)] == [
        {name: row[name] for name in ("line", "tokens", "logprob", "text")} for row in expected
    ]


@pytest.mark.parametrize(("lines", "short"), [(400, "--general"), (4000, "--domain")])
def test_too_few_lines_are_said(tmp_path: Path, lines: int, short: str) -> None:
    for kind in ("domain", "general"):
        text = "".join(f"a {kind} line, number {number}\n" for number in range(300))
        (tmp_path / f"{kind}.txt").write_text(text, encoding="utf-8")
    sources = {kind: tmp_path / f"{kind}.txt" for kind in ("domain", "general")}
    with pytest.raises(SystemExit, match=f"{short} has 300 lines"):
        filter_corpus.make_corpus(argparse.Namespace(out=tmp_path, lines=lines, share=0.05, seed=3, **sources))


@pytest.mark.parametrize("word", ["0", "1.1", "-1", "nan", "x"])
def test_what_is_no_share(word: str) -> None:
    assert filter_corpus.share("1") == 1
    with pytest.raises(ValueError, match=word):
        filter_corpus.share(word)


def test_the_corpus_holds_the_share_that_was_asked_for_and_no_line_of_the_sample(tmp_path: Path) -> None:
    texts = {kind: [f"a {kind} line, number {number}" for number in range(300)] for kind in ("domain", "general")}
    for kind, lines in texts.items():
        (tmp_path / f"{kind}-source.txt").write_text(
            "\n".join([*lines, lines[0], "too short"]) + "\n", encoding="utf-8"
        )
    sources = {kind: tmp_path / f"{kind}-source.txt" for kind in texts}
    inside = filter_corpus.make_corpus(argparse.Namespace(out=tmp_path, lines=200, share=0.25, seed=3, **sources))
    corpus, domain, general = (
        (tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("corpus", "domain", "general")
    )
    assert len(corpus) == len(set(corpus)) == 200
    assert [corpus[number - 1] for number in sorted(inside)] == [line for line in corpus if "domain" in line]
    assert len(inside) == 50
    assert set(domain) == {*texts["domain"]} - {*corpus}
    assert set(general) <= {*corpus}
    assert len(general) == min(len(domain), 200)
