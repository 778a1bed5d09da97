"""Oracle: what the results must satisfy whatever the machine; the command at its small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.checkpoints import bench_convert, bench_load
from benchmarks.report import Measurement, Report, Target, ratio_of_rounds
from benchmarks.worker import measure
from xlm.errors import XLMError


def test_convert(tmp_path: Path) -> None:
    report = bench_convert(tmp_path, size="small", rounds=1)
    assert [len(measurement.values) for measurement in report.measurements] == [1, 1, 1]
    assert all(value > 0 for measurement in report.measurements for value in measurement.values)
    assert report.targets == ()  # they are for the published size
    assert [path.name for path in tmp_path.iterdir()] == ["random.pth"]


def test_load_against_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    report = bench_load(tmp_path, size="small", rounds=1, against="transformers")
    names = [measurement.name for measurement in report.measurements]
    assert sum(name.startswith("xlm: ") for name in names) == sum(name.startswith("transformers: ") for name in names)
    assert "transformers 5." in report.machine["versions"]


def test_ratio_is_taken_round_by_round() -> None:
    a = Measurement(name="a", unit="s", values=(1.0, 20.0, 3.0))
    b = Measurement(name="b", unit="s", values=(2.0, 10.0, 6.0))
    assert ratio_of_rounds(a, b) == 0.5
    assert a.median == 3.0


def test_a_missed_target_is_shown(tmp_path: Path) -> None:
    targets = (Target(name="good", value=1.0, limit=1.0), Target(name="bad", value=1.01, limit=1.0))
    measurement = Measurement(name="f", unit="s", values=(1.0,))
    report = Report(title="title", machine={"device": "d"}, measurements=(measurement,), targets=targets)
    good, bad = str(report).splitlines()[-2:]
    assert "holds" in good
    assert "MISSED" in bad
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["bars"][1] == {
        "name": "bad",
        "value": 1.01,
        "limit": 1.0,
        "at_least": False,
        "holds": False,
    }


def test_a_failed_measurement_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(XLMError, match="A measurement failed"):
        measure("load", str(tmp_path / "nothing"), "xlm")


def test_command(tmp_path: Path) -> None:
    arguments = ["convert", "--size", "small", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "cp and sha256" in result.output
    assert len(json.loads((tmp_path / "out.json").read_text())["figures"]) == 3
    wrong = CliRunner().invoke(main, ["convert", "--against", "transformers"])
    assert wrong.exit_code == 2
