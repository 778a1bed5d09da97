"""Events of a run, and how they are recorded and drawn: the log file, TensorBoard, the picture of training curves.

An event is a JSON object. ``event`` names its type, and ``step`` is the number of batches taken. By type, it also has:

- ``start``: ``config``, ``parameters`` (their number), ``kept`` (how many of them the first process holds),
  ``processes`` (their number), ``device``, ``updates`` (number made by earlier runs, if this one resumes).
- ``changed``, once for each key of the configuration that differs from the run that this one resumes: ``key``,
  ``before``, ``now``.
- ``parts``, for a new model with parts of another one: ``source``, ``copied`` and ``new`` (names of tensors), ``unfit``
  (why other tensors were not copied, by name).
- ``update``: ``updates``, ``loss`` (nats, mean over the updates since the last such event), ``losses`` (the same for
  each objective), ``grad_norm``, ``lr``, ``language``, ``tokens_per_second``, ``seconds`` (since the process started to
  train), ``left`` (seconds, estimated).
- ``evaluation``: ``updates``, ``best`` (whether the model is the best so far), and the results of the objective: for
  causal language models ``perplexity`` by language, and ``mean``; for translation ``bleu``, ``accuracy`` and
  ``perplexity`` by direction, ``mean_bleu``, and the first three with the prefix ``test_`` for the split ``test``; for
  a mixture of both, all of these.
- ``skipped``, for a step without a finite gradient: ``in_a_row`` and ``skipped`` (skipped steps in a row, in total).
- ``saved``: ``path``. ``not_saved``: ``path``, ``why``.
- ``end``: ``reason``, ``updates``.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlm._io.atomic import replacing, write_text
from xlm._io.dependencies import needing
from xlm.errors import InputError

LOG_FILE = "log.jsonl"
_SPLITS = {"": "-", "test_": "--"}
"""Style of a line by the prefix of its metric."""

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
        with needing("TensorBoard is not installed", where="run.tensorboard", install="'xlm[plot]'"):
            from torch.utils.tensorboard.writer import SummaryWriter
        self._writer: Any = SummaryWriter(str(run / "tensorboard"))

    def __call__(self, event: Event) -> None:
        """Write the numbers of an event."""
        for name, value in _numbers_of(event).items():
            self._writer.add_scalar(name, value, event["updates"])
        if event["event"] == "evaluation":
            self._writer.flush()


class WeightsAndBiases:
    """Observer that sends losses, learning rates and metrics to Weights & Biases, or to ``wandb/`` if it is offline.

    A resumed run continues the run of that name at Weights & Biases.

    Args:
        run: Directory of the run.
        project: Project that the run belongs to.

    Raises:
        DependencyError: wandb is not installed.
    """

    def __init__(self, run: Path, project: str) -> None:
        with needing("Weights & Biases is not installed", where="run.wandb", install="'xlm[wandb]'"):
            import wandb
        id_file = run / "wandb-id.txt"
        if not id_file.exists():
            write_text(id_file, secrets.token_hex(4))
        name = id_file.read_text("utf-8").strip()
        self._run: Any = wandb.init(project=project, dir=str(run), id=name, resume="allow")
        # The own step of a run cannot go back, but a resumed run repeats the updates since its last checkpoint.
        self._run.define_metric("*", step_metric="updates")

    def __call__(self, event: Event) -> None:
        """Send the numbers of an event."""
        if event["event"] == "start":
            self._run.config.update(event["config"], allow_val_change=True)
        if numbers := _numbers_of(event):
            self._run.log({**numbers, "updates": event["updates"]})
        if event["event"] == "end":
            self._run.finish()


def _numbers_of(event: Event) -> dict[str, float]:
    """Return the numbers of an event that make curves, by name."""
    if event["event"] == "update":
        numbers = {name: event[name] for name in ("loss", "grad_norm", "lr", "tokens_per_second")}
        return numbers | {f"loss/{name}": loss for name, loss in event["losses"].items()}
    if event["event"] == "evaluation":
        return {name.replace(".", "/"): value for name, value in flat_metrics(results_of(event)).items()}
    return {}


def draw_report(run: Path, path: Path) -> dict[str, Any]:
    """Draw the training curves of a run.

    Args:
        run: Directory of the run.
        path: PNG file to write, in an existing directory.

    Returns:
        A summary: ``updates``, ``loss``, ``perplexity`` and ``bleu`` (by language or direction) at the end, ``best``
        (lowest mean of the languages' perplexities), ``best_bleu`` (highest mean), ``skipped`` (number of steps).

    Raises:
        InputError: The run has no log, or its log has no updates.
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
    with needing("matplotlib is not installed", where="the report", install="'xlm[plot]'"):
        from matplotlib.figure import Figure
    translates = any(f"{prefix}bleu" in event for event in evaluations for prefix in _SPLITS)
    figure = Figure(figsize=(16.5 if translates else 11, 7.5), layout="constrained")
    axes_by_row: Any = figure.subplots(2, 3 if translates else 2)
    (loss, perplexity, *_), (rate, norm, *_) = axes_by_row
    steps = [event["updates"] for event in updates]
    for axes, name, title in ((loss, "loss", "Training loss (nats per token)"), (norm, "grad_norm", "Gradient norm")):
        values = [event[name] for event in updates]
        axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8, label="as logged")
        axes.plot(steps, _smoothed(values), color="tab:blue", label="smoothed")
        axes.set_title(title)
    objectives = sorted({name for event in updates for name in event.get("losses", ())})
    for number, objective in enumerate(objectives if len(objectives) > 1 else (), start=1):
        of_objective = [event for event in updates if objective in event.get("losses", ())]
        values = _smoothed([event["losses"][objective] for event in of_objective])
        loss.plot([event["updates"] for event in of_objective], values, color=f"C{number}", label=objective)
    for axes in (loss, norm):
        axes.legend()
    _set_log_scale(norm)
    rate.plot(steps, [event["lr"] for event in updates], color="tab:green")
    rate.set_title("Learning rate")
    _draw_metric(perplexity, evaluations, "perplexity", "Perplexity on held-out text")
    _set_log_scale(perplexity)
    if translates:
        _draw_metric(axes_by_row[0, 2], evaluations, "bleu", "BLEU of held-out pairs")
        _draw_metric(axes_by_row[1, 2], evaluations, "accuracy", "Accuracy of the next token (%)")
    for axes in axes_by_row.flat:
        axes.set_xlabel("updates")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(str(run))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return {
        "updates": steps[-1],
        "loss": updates[-1]["loss"],
        **{name: evaluations[-1].get(name, {}) if evaluations else {} for name in ("perplexity", "bleu")},
        "best": min((event["mean"] for event in evaluations if "mean" in event), default=None),
        "best_bleu": max((event["mean_bleu"] for event in evaluations if "mean_bleu" in event), default=None),
        "skipped": sum(event["event"] == "skipped" for event in events),
    }


def _draw_metric(axes: Any, evaluations: Sequence[Event], metric: str, title: str) -> None:
    """Draw a metric of each language or direction, dashed for the split ``test``."""
    axes.set_title(title)
    for prefix, style in _SPLITS.items():
        with_metric = [event for event in evaluations if event.get(prefix + metric)]
        steps = [event["updates"] for event in with_metric]
        for language in sorted(with_metric[-1][prefix + metric] if with_metric else ()):
            values = [event[prefix + metric].get(language) for event in with_metric]
            label = f"{prefix.replace('_', ' ')}{language} ({values[-1]:.2f})"
            axes.plot(steps, values, style, marker="o", markersize=3, label=label)
    if axes.lines:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center", transform=axes.transAxes)


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
