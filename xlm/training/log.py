"""Events of a run, and how they are recorded and drawn: the log file, TensorBoard, the picture of training curves.

An event is a JSON object. ``event`` names its type, and ``step`` is the number of batches taken. By type, it also has:

- ``start``: ``config``, ``parameters`` (their number), ``kept`` (how many of them the first process holds),
  ``processes`` (their number), ``device``, ``updates`` (number made by earlier runs, if this one resumes).
- ``update``: ``updates``, ``loss`` (nats, mean over the updates since the last such event), ``losses`` (the same for
  each objective), ``grad_norm``, ``lr``, ``language``, ``tokens_per_second``, ``seconds`` (since the process started to
  train), ``left`` (seconds, estimated).
- ``evaluation``: ``updates``, ``best`` (whether the model is the best so far), and the results of the objective: for
  causal language models ``perplexity`` by language, and ``mean``.
- ``skipped``, for a step without a finite gradient: ``in_a_row`` and ``skipped`` (skipped steps in a row, in total).
- ``saved``: ``path``. ``not_saved``: ``path``, ``why``.
- ``end``: ``reason``, ``updates``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlm._io.atomic import replacing, write_text
from xlm.errors import DependencyError, InputError

LOG_FILE = "log.jsonl"

Event = dict[str, Any]
Observer = Callable[[Event], None]


def read_log(run: Path) -> Iterator[Event]:
    """Yield the events of a run; a line that was cut short is skipped."""
    path = run / LOG_FILE
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("step"), int):
                yield event


class LogFile:
    """Observer that appends each event to ``log.jsonl``.

    Args:
        run: Directory of the run.
        step: Number of steps taken. Events of later steps are removed, since a resumed run takes those steps again.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        write_text(run / LOG_FILE, "".join(_line(event) for event in read_log(run) if event["step"] <= step))
        self._path = run / LOG_FILE

    def __call__(self, event: Event) -> None:
        """Append an event."""
        try:
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(_line(event))
        except OSError as error:  # a full disk must not end the run
            logging.getLogger("xlm").warning("the log could not be written: %s: %s", self._path, error.strerror)


def _line(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False) + "\n"


def results_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results in an evaluation event: numbers, or numbers by language."""
    return {name: value for name, value in event.items() if name not in ("event", "step", "updates", "best")}


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Return results by the names of metrics: ``{"perplexity": {"de": 9.5}}`` becomes ``{"perplexity.de": 9.5}``."""
    metrics: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            metrics.update({f"{name}.{language}": number for language, number in value.items()})
        else:
            metrics[name] = value
    return metrics


class TensorBoard:
    """Observer that writes losses, learning rates and metrics for TensorBoard to ``tensorboard/``.

    Args:
        run: Directory of the run.

    Raises:
        DependencyError: tensorboard is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                "TensorBoard is not installed", where="run.tensorboard", remedy="pip install 'xlm[plot]'"
            ) from error
        self._writer: Any = SummaryWriter(str(run / "tensorboard"))

    def __call__(self, event: Event) -> None:
        """Write the numbers of an event."""
        if event["event"] == "update":
            for name in ("loss", "grad_norm", "lr", "tokens_per_second"):
                self._writer.add_scalar(name, event[name], event["updates"])
        elif event["event"] == "evaluation":
            for name, value in flat_metrics(results_of(event)).items():
                self._writer.add_scalar(name.replace(".", "/"), value, event["updates"])
            self._writer.flush()


def draw_report(run: Path, path: Path) -> dict[str, Any]:
    """Draw the training curves of a run.

    Args:
        run: Directory of the run.
        path: PNG file to write, in an existing directory.

    Returns:
        A summary: ``updates``, ``loss`` and ``perplexity`` (by language) at the end, ``best`` (lowest mean perplexity),
        ``skipped`` (number of skipped steps).

    Raises:
        InputError: The run has no log, or its log has no updates.
        DependencyError: matplotlib is not installed.
        WriteError: The file could not be written.
    """
    events = list(read_log(run))
    updates = [event for event in events if event["event"] == "update"]
    evaluations = [event for event in events if event["event"] == "evaluation" and "perplexity" in event]
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
    for axes, name, title in ((loss, "loss", "Training loss (nats per token)"), (norm, "grad_norm", "Gradient norm")):
        values = [event[name] for event in updates]
        axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8, label="as logged")
        axes.plot(steps, _smoothed(values), color="tab:blue", label="smoothed")
        axes.set_title(title)
        axes.legend()
    _set_log_scale(norm)
    rate.plot(steps, [event["lr"] for event in updates], color="tab:green")
    rate.set_title("Learning rate")
    _draw_perplexities(perplexity, evaluations)
    for axes in (loss, perplexity, rate, norm):
        axes.set_xlabel("updates")
        axes.xaxis.get_major_locator().set_params(integer=True)
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
    _set_log_scale(axes)
    axes.legend()


def _set_log_scale(axes: Any) -> None:
    """Make the vertical axis logarithmic, with plain numbers at its ticks: 84.5, not 8.45 times 10 to the 1."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the moving average of values; a window holds a twentieth of them."""
    half = len(values) // 40
    neighbours = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in neighbours]
