"""The picture of a run, the log, TensorBoard.

Oracle: the numbers of the log; what matplotlib was told to draw. (The picture itself was looked at.)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.training.runs import events, small_run, translation_run, updates
from xlm.cli import xlm
from xlm.errors import InputError
from xlm.training.log import LOG_FILE, LogFile, draw_report, read_log
from xlm.training.loop import train


def test_a_picture(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn: dict[str, list[list[float]]] = {}
    genuine = figure.savefig

    def look(self: object, *arguments: object, **options: object) -> None:
        for axes in self.axes:  # type: ignore[attr-defined]
            drawn[axes.get_title()] = [list(map(float, line.get_ydata())) for line in axes.get_lines()]
        genuine(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", look)
    found = draw_report(whole_run, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert drawn["Training loss (nats per token)"][0] == [loss for _, loss, _ in updates(whole_run)]
    assert drawn["Gradient norm"][0] == [norm for _, _, norm in updates(whole_run)]
    assert drawn["Learning rate"][0] == [event["lr"] for event in events(whole_run, "update")]
    last = events(whole_run, "evaluation")[-1]
    assert [values[-1] for values in drawn["Perplexity on held-out text"]] == [
        last["perplexity"][language] for language in ("de", "en")
    ]
    assert found == {
        "updates": 12,
        "loss": updates(whole_run)[-1][1],
        "perplexity": last["perplexity"],
        "bleu": {},
        "best": min(event["mean"] for event in events(whole_run, "evaluation")),
        "best_bleu": None,
        "skipped": 0,
    }


def test_a_picture_of_a_translation_run(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib.figure")
    train(translation_run(pairs, tmp_path / "run", max_steps=4, evaluate_every=2))
    found = draw_report(tmp_path / "run", tmp_path / "report.png")
    evaluations = events(tmp_path / "run", "evaluation")
    assert found["bleu"] == evaluations[-1]["bleu"]
    assert found["best_bleu"] == max(event["mean_bleu"] for event in evaluations)
    assert set(found["perplexity"]) == {"de-en", "en-de"}
    result = CliRunner().invoke(xlm, ["train-report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "BLEU de-en: " in result.output
    assert f"highest mean BLEU: {found['best_bleu']:.2f}" in result.output
    assert found["best"] is None
    assert "lowest mean perplexity" not in result.output


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        draw_report(tmp_path, tmp_path / "report.png")


def test_a_log_that_was_cut_short(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "update", "step": step}) for step in range(1, 6)]
    (tmp_path / LOG_FILE).write_text("\n".join(lines)[:-4], "utf-8")
    assert [event["step"] for event in read_log(tmp_path)] == [1, 2, 3, 4]
    log = LogFile(tmp_path, step=2)
    log({"event": "update", "step": 3})
    assert [event["step"] for event in read_log(tmp_path)] == [1, 2, 3]


def test_tensorboard(data: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    train(small_run(data, tmp_path / "run", tensorboard=True, max_steps=6))
    found = accumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    losses = [(scalar.step, scalar.value) for scalar in found.Scalars("loss")]
    expected = [(number, loss) for number, loss, _ in updates(tmp_path / "run")]
    assert losses == [(number, pytest.approx(loss, rel=1e-6)) for number, loss in expected]
    assert len(found.Scalars("perplexity/de")) == 1
