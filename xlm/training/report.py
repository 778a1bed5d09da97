"""The training curves of a run: loss, perplexity, learning rate, gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm._io.atomic import replacing
from xlm.errors import DependencyError, InputError
from xlm.training.log import Event, read_log


def draw_report(run: Path, path: Path) -> dict[str, Any]:
    """Draw the training curves of a run.

    Args:
        run: Directory of the run.
        path: PNG file to write, in an existing directory.

    Returns:
        A summary: ``updates``, ``loss`` and ``perplexity`` (by language) at the end, ``best`` (lowest mean perplexity),
        ``skipped`` (number of steps).

    Raises:
        InputError: The log of the run has no updates, or there is none.
        DependencyError: matplotlib is not installed.
        WriteError: The file could not be written.
    """
    events = list(read_log(run))
    updates = [event for event in events if event["event"] == "update"]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    if not updates:
        raise InputError(
            "the run has nothing to draw yet",
            where=run,
            found="no updates in its log",
            expected="the output directory of xlm train",
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(
            "matplotlib is not installed", where="the report", remedy="pip install 'xlm[plot]'"
        ) from error
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    loss, perplexity, rate, norm = figure.subplots(2, 2).flat
    steps = [event["updates"] for event in updates]
    for axes, name, title in ((loss, "loss", "Training loss (nats a token)"), (norm, "grad_norm", "Gradient norm")):
        values = [event[name] for event in updates]
        axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8, label="as logged")
        axes.plot(steps, _smoothed(values), color="tab:blue", label="smoothed")
        axes.set_title(title)
        axes.legend()
    norm.set_yscale("log")
    rate.plot(steps, [event["lr"] for event in updates], color="tab:green")
    rate.set_title("Learning rate")
    _draw_perplexities(perplexity, evaluations)
    for axes in (loss, perplexity, rate, norm):
        axes.set_xlabel("updates")
        axes.grid(alpha=0.3)
    figure.suptitle(str(run))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return {
        "updates": steps[-1],
        "loss": updates[-1]["loss"],
        "perplexity": evaluations[-1]["perplexity"] if evaluations else {},
        "best": min((event["mean"] for event in evaluations), default=None),
        "skipped": sum(event["event"] == "skipped" for event in events),
    }


def _draw_perplexities(axes: Any, evaluations: Sequence[Event]) -> None:
    axes.set_title("Perplexity on held-out text")
    if not evaluations:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center", transform=axes.transAxes)
        return
    steps = [event["updates"] for event in evaluations]
    for language in sorted(evaluations[-1]["perplexity"]):
        values = [event["perplexity"].get(language) for event in evaluations]
        axes.plot(steps, values, marker="o", markersize=3, label=f"{language} ({values[-1]:.2f})")
    axes.set_yscale("log")
    axes.legend()


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the moving average of values, over a twentieth of them."""
    half = len(values) // 40
    neighbours = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in neighbours]
