"""``xlm train`` and ``xlm train-report``: train a model, and draw its training curves."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xlm.cli._options import OUTPUT_PATH, Command, argument, option, section
from xlm.cli._output import clock, counted, printable

if TYPE_CHECKING:
    from xlm.training.log import Event


@click.command(cls=Command, short_help="Train a model on prepared text")
@argument("config", help="TOML file, or name of a configuration that comes with xlm, such as clm_ende_small")
@section(
    "Training",
    option(
        "--set",
        "Override a key of CONFIG, such as run.max_steps=100; repeat for several",
        dest="changes",
        multiple=True,
        metavar="KEY=VALUE",
    ),
    option(
        "--resume", "Continue from the newest intact checkpoint; without one, start from the beginning", is_flag=True
    ),
)
def command(config: str, changes: tuple[str, ...], resume: bool) -> None:
    r"""Train a model as CONFIG says.

    The output directory receives log.jsonl, checkpoints/, best/ (lowest mean perplexity on held-out text, or for
    translation highest mean BLEU) and last/. The other commands accept best/ and last/ as MODEL. On SIGTERM or
    SIGUSR1, the command finishes its step, saves its state and exits with status 0; --resume continues from there.

    To train with several processes: torchrun --nproc-per-node N -m xlm train CONFIG

    \b
    Examples:
        xlm train clm_ende_small --set data=data --set output=run
        xlm train clm_ende_small --set data=data --set output=run --resume
    """
    from xlm._io.memory import keep_freed_memory
    from xlm.training.config import load_config
    from xlm.training.loop import train

    keep_freed_memory()
    settings = load_config(config, changes)
    with _stop_on_signals() as should_stop:
        train(settings, resume=resume, observers=[_Console()], should_stop=should_stop)


@click.command(cls=Command, name="train-report", short_help="Draw the training curves of a run")
@argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Output directory of xlm train")
@section("Output", option("--output", "PNG file to write", type=OUTPUT_PATH, show_default="RUN/report.png"))
def report(run: Path, output: Path | None) -> None:
    r"""Draw loss, perplexity of each language, learning rate and gradient norm of RUN as a PNG file.

    For a translation model, it also has the losses of each objective, and BLEU and accuracy of each direction.

    The run may still be in progress. Requires matplotlib: pip install 'xlm[plot]'.

    \b
    Example:
        xlm train-report run --output run.png
    """
    from xlm.training.log import draw_report

    path = output or run / "report.png"
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"--output {path}: the name must end in .png")
    summary = draw_report(run, path)
    numbers = f"{summary['updates']:,} updates, loss {summary['loss']:.4f}, {summary['skipped']} steps skipped"
    click.echo(printable(f"{path}: {numbers}"))
    for language, value in summary["perplexity"].items():
        click.echo(printable(f"perplexity {language}: {value:.3f}"))
    for direction, value in summary["bleu"].items():
        click.echo(printable(f"BLEU {direction}: {value:.2f}"))
    if summary["best"] is not None:
        click.echo(f"lowest mean perplexity: {summary['best']:.3f}")
    if summary["best_bleu"] is not None:
        click.echo(f"highest mean BLEU: {summary['best_bleu']:.2f}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM and SIGUSR1, and yield a function that returns whether one has arrived."""
    caught: list[int] = []
    names = [name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has no SIGUSR1
    before = {name: signal.signal(getattr(signal, name), lambda number, _: caught.append(number)) for name in names}
    try:
        yield lambda: bool(caught)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


class _Console:
    """Observer that prints events to standard error. On a terminal, each update overwrites the previous one."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._max_steps = 0

    def __call__(self, event: Event) -> None:
        """Print an event."""
        name = event["event"]
        if name == "start":
            self._max_steps = event["config"]["run"]["max_steps"]
        if name not in _TEXTS:
            return
        text = _TEXTS[name](event, self._max_steps)
        click.echo(
            f"\r\x1b[K{text}" if self._on_terminal else text, nl=not self._on_terminal or name != "update", err=True
        )


def _update(event: Event, max_steps: int) -> str:
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in event["losses"].items())
    by_objective = "" if event["losses"].keys() == {"clm"} else f" ({losses})"
    return (
        f"{event['updates']:,}/{max_steps:,}  loss {event['loss']:.4f}{by_objective}  "
        f"gradient {event['grad_norm']:.3f}  lr {event['lr']:.2e}  "
        f"{event['tokens_per_second']:,.0f} tokens/s  {clock(event['left'])} left"
    )


def _evaluation(event: Event, _: int) -> str:
    from xlm.training.log import results_of

    texts = [f"{event['updates']:,}"]
    for name, value in results_of(event).items():
        if isinstance(value, dict):
            value = "  ".join(f"{language} {number:.3f}" for language, number in value.items())
            texts.append(f"{name} {value}")
        else:
            texts.append(f"{name} {value:.3f}")
    return "  ".join([*texts, *["(best)"] * event["best"]])


def _trained(event: Event) -> str:
    return "" if event["trained"] == event["parameters"] else f" ({event['trained']:,} trained)"


def _setting(value: object) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def _parts(event: Event, _: int) -> str:
    """Return one line for each kind of tensor, with the layers of a kind on one line."""
    lines = [f"{event['source']}: copied {name}" for name in _by_layer(event["copied"])]
    unfit: dict[str, list[str]] = {}
    for name, why in event["unfit"].items():
        unfit.setdefault(why, []).append(name)
    lines += [f"not copied {name}: {why}" for why, names in unfit.items() for name in _by_layer(names)]
    return "\n".join([*lines, *(f"new: {name}" for name in _by_layer(event["new"]))])


def _by_layer(names: Sequence[str]) -> list[str]:
    """Return names of tensors, with one entry for those that differ only in the number of their layer."""
    counts = Counter(re.sub(r"\.layers\.\d+\.", ".layers.*.", name) for name in names)
    return [f"{name} ({count} layers)" if ".layers." in name else name for name, count in counts.items()]


_TEXTS: dict[str, Callable[[dict[str, Any], int], str]] = {
    "start": lambda event, _: (
        f"{event['parameters']:,} parameters{_trained(event)}, {counted(event['processes'], 'process')}, "
        f"{event['device']}, from update {event['updates']:,}"
    ),
    "changed": lambda event, _: f"{event['key']}: {_setting(event['before'])} → {_setting(event['now'])}",
    "parts": _parts,
    "update": _update,
    "evaluation": _evaluation,
    "skipped": lambda event, _: (
        f"step {event['step']:,} skipped: its gradient is not finite ({event['in_a_row']} in a row)"
    ),
    "end": lambda event, _: f"{event['reason']} after {counted(event['updates'], 'update')}",
}
