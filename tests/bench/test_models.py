"""Oracle: what the figures must satisfy whatever the machine, and equal outputs; each benchmark at its small size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.demo_files import write_demo_files
from xlm.bench.forward import bench_forward, forward_operations
from xlm.bench.generation import bench_generate
from xlm.bench.limits import matrix_peak, reading_bandwidth
from xlm.bench.plot import plot
from xlm.bench.report import Bar, BenchReport, Figure
from xlm.bench.scoring import bench_score
from xlm.checkpoint.convert import convert
from xlm.cli import xlm
from xlm.model.config import XLMConfig

PNG = b"\x89PNG\r\n\x1a\n"


def _check(report: BenchReport) -> None:
    assert all(value >= 0 for figure in report.figures for value in figure.values)
    assert "transformers 5." in report.machine["versions"]
    assert "threads" in report.machine
    for bar in report.bars:
        assert bar.holds, bar


def test_forward(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = bench_forward(tmp_path, size="small", rounds=1, against="transformers")
    _check(report)
    assert [bar.name for bar in report.bars] == ["logits, largest difference from transformers"]


@pytest.mark.parametrize("rows", [1, 32])
def test_generate(tmp_path: Path, rows: int) -> None:
    pytest.importorskip("transformers")
    report = bench_generate(tmp_path, size="small", rounds=1, against="transformers", rows=rows, new_tokens=3)
    _check(report)
    assert sum(figure.unit == "tokens/s" for figure in report.figures) == (4 if rows == 1 else 2)


def test_score(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    files = write_demo_files(tmp_path)
    convert(files / "demo.pth", tmp_path / "demo", codes=files / "codes")
    text = tmp_path / "lines"
    text.write_text("A small house.\n\nThe house is old, and the old man is small!\n" * 10, encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    report = bench_score(
        tmp_path / "scratch",
        size="small",
        rounds=1,
        against="transformers",
        model=tmp_path / "demo",
        texts=[text, text],
        lines=40,
    )
    _check(report)
    assert report.title.startswith("scoring 40 lines")


def test_operations() -> None:
    """Oracle: the sum over all matrices, by hand, of a model whose numbers all differ."""
    config = XLMConfig(vocab_size=50, emb_dim=8, n_layers=3, n_heads=2, max_position_embeddings=16, n_langs=1)
    per_token = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 50 * 8
    attention = 3 * 2 * 5 * 5 * 8 / 2  # scores and context, the lower half of each square
    assert forward_operations(config, 4, 5) == 2 * (4 * 5 * per_token + 4 * attention)


def test_limits() -> None:
    """A processor of any kind does more than a thousandth of what one of today does."""
    assert matrix_peak(torch.float32) > 0.1
    assert reading_bandwidth() > 0.05


def test_bars_on_either_side() -> None:
    assert Bar(name="", value=2.0, limit=2.0, at_least=True).holds
    assert not Bar(name="", value=1.9, limit=2.0, at_least=True).holds
    assert not Bar(name="", value=float("nan"), limit=2.0, at_least=True).holds
    assert not Bar(name="", value=float("nan"), limit=2.0).holds


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = (Figure(name="xlm", unit="s", values=(1.0, 2.0)), Figure(name="xlm", unit="MB", values=(3.0,)))
    plot(BenchReport(title="t", machine={"device": "d"}, figures=figures, bars=()), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLM_REFERENCE", raising=False)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(xlm, ["bench", "generate", "--size", "small", "--rounds", "1", "--new-tokens", "2"])
    assert result.exit_code == 0, result.output
    assert "reading memory" in result.stdout
    missing = CliRunner().invoke(xlm, ["bench", "score", "--size", "small"])
    assert missing.exit_code == 2
    assert "--model and --text" in missing.stderr
