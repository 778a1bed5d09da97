"""Oracle: what the results must satisfy whatever the machine, and equal outputs; each benchmark at its small size."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import generation, hardware
from benchmarks.__main__ import main
from benchmarks.forward import bench_forward, forward_operations, rounding_limit
from benchmarks.generation import bench_generate
from benchmarks.models import SIZES
from benchmarks.report import Measurement, Report, Target
from benchmarks.scoring import bench_score
from xlm.errors import XLMError
from xlm.model.config import XLMConfig

CPU = torch.device("cpu")
PNG = b"\x89PNG\r\n\x1a\n"


def _check(report: Report) -> None:
    assert all(value >= 0 for figure in report.measurements for value in figure.values)
    assert "transformers 5." in report.machine["versions"]
    assert "threads" in report.machine
    assert report.targets
    for target in report.targets:
        assert target.holds, target


def test_forward(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = bench_forward(tmp_path, size="small", rounds=1, against="transformers")
    _check(report)
    assert {target.name: target.limit for target in report.targets} == {
        "xlm float32: logits, largest difference from transformers float32": 1e-5,
        "xlm bfloat16: logits, error beside transformers float32": rounding_limit(SIZES["small"]),
    }


@pytest.mark.parametrize("rows", [1, 32])
def test_generate(tmp_path: Path, rows: int) -> None:
    pytest.importorskip("transformers")
    report = bench_generate(tmp_path, size="small", rounds=1, against="transformers", rows=rows, new_tokens=3)
    _check(report)
    speeds = [figure for figure in report.measurements if figure.unit == "tokens/s"]
    assert len(speeds) == (4 if rows == 1 else 2)
    assert {len(figure.values) for figure in speeds} == {1}
    limits = {target.name: target.limit for target in report.targets}
    said = f"of {rows * 3} tokens, those that transformers would not have chosen"
    logprobs = "xlm float32: log-probabilities of the tokens, largest difference from transformers float32, nats"
    assert limits == {f"xlm float32: {said}": 0, f"xlm bfloat16: {said}": 0, logprobs: 1e-4}


def test_the_first_round_of_generation_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000.0] * 3 + [0.5] * 6)
    monkeypatch.setattr(generation, "timed", lambda work, device: (next(times), work()))
    monkeypatch.setattr(generation, "memory_bandwidth", lambda device: 1.0)
    report = bench_generate(tmp_path, size="small", rounds=2, against=None, rows=1, new_tokens=2)
    speeds = [figure.values for figure in report.measurements if figure.unit == "tokens/s"]
    assert speeds == [(4.0, 4.0)] * 3


def test_a_peer_that_stops_early_is_no_peer() -> None:
    class Stops:
        config = SimpleNamespace(pad_index=2)

        def generate(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
            return input_ids

    with pytest.raises(XLMError, match="did not generate"):
        generation._generate_with_peer(Stops(), torch.tensor([[14, 15]]), torch.tensor([2]), 3)


def test_score(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = bench_score(
        tmp_path,
        size="small",
        rounds=1,
        against="transformers",
        model=demo,
        texts=[demo / "lines"] * 2,
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


@pytest.mark.parametrize(
    ("dtype", "native", "rows"),
    [
        (torch.float32, False, 2048),
        (torch.bfloat16, True, 2048),
        (torch.bfloat16, False, 256),
        (torch.float16, True, 256),
    ],
    ids=str,
)
def test_limits(dtype: torch.dtype, native: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Had each taken half a second: two operations a product of numbers, four bytes a number."""
    shapes = []

    def half_a_second(work: Callable[[], torch.Tensor], device: torch.device = CPU) -> float:
        assert device == CPU
        with FakeTensorMode(allow_non_fake_inputs=True):
            shapes.append(tuple(work().shape))
        return 0.5

    monkeypatch.setattr(hardware, "fastest", half_a_second)
    monkeypatch.setattr(hardware, "multiplies_bfloat16", lambda: native)
    assert hardware.matrix_peak(dtype) == pytest.approx(2 * rows * 2048**2 / 0.5 / 1e9)
    assert shapes == [(rows, 2048)] * 2  # by torch and by ``linear``
    assert hardware.memory_bandwidth() == pytest.approx(4 * 2**26 / 0.5 / 1e9)


def test_the_fastest_run_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0, 30.0, 35.0, 40.0, 46.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    runs: list[None] = []
    assert hardware.fastest(lambda: runs.append(None)) == 2.0
    assert len(runs) == 6


def test_report_as_json(tmp_path: Path) -> None:
    targets = (Target(name="a", value=1.0, limit=2.0), Target(name="b", value=3.0, limit=2.0))
    measurements = (Measurement(name="f", unit="s", values=(1.0,)),)
    report = Report(title="t", machine={}, measurements=measurements, targets=targets, command="python -m benchmarks x")
    report.write(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [target["holds"] for target in found["bars"]] == [True, False]
    assert found["command"] == "python -m benchmarks x"


def test_targets_on_either_side() -> None:
    assert Target(name="", value=2.0, limit=2.0, at_least=True).holds
    assert not Target(name="", value=1.9, limit=2.0, at_least=True).holds
    assert not Target(name="", value=float("nan"), limit=2.0, at_least=True).holds
    assert not Target(name="", value=float("nan"), limit=2.0).holds


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    measurements = (
        Measurement(name="xlm", unit="s", values=(1.0, 2.0)),
        Measurement(name="xlm", unit="MB", values=(3.0,)),
    )
    report = Report(title="t", machine={"device": "d"}, measurements=measurements, targets=())
    report.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLM_REFERENCE", raising=False)
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "--size", "small", "--rounds", "1", "--new-tokens", "2", "--json", "r.json"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/__main__.py", *arguments])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert written["command"] == "python -m benchmarks generate --size small --rounds 1 --new-tokens 2 --json r.json"
    assert "reading memory" in result.stdout
    missing = CliRunner().invoke(main, ["score", "--size", "small"])
    assert missing.exit_code == 2
    assert "--model and --text" in missing.stderr
