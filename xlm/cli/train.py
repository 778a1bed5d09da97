"""``xlm train``: train a model on prepared text."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from xlm.training.log import Event, results_of


@click.command(short_help="Train a model on prepared text.")
@click.argument("config")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Override a key, such as run.max_steps=100.")
@click.option("--resume", is_flag=True, help="Continue from the newest intact checkpoint, if there is one.")
def command(config: str, changes: tuple[str, ...], resume: bool) -> None:
    r"""Train a model as configured by CONFIG, a TOML file or the name of a configuration that comes with xlm.

    The output directory gets log.jsonl, checkpoints/, best/ (lowest mean perplexity on held-out text) and last/; the
    last two are model directories for every other command. On SIGTERM or SIGUSR1, the command finishes its step, saves
    its state and exits with status 0; --resume continues from there.

    With several processes: torchrun --nproc-per-node N -m xlm train CONFIG

    \b
    Example:
        xlm train clm_ende_small --set data=data --set output=run
        xlm train clm_ende_small --set data=data --set output=run --resume
    """
    from xlm.training.config import load_config
    from xlm.training.loop import train

    settings = load_config(config, changes)
    with _stop_on_signals() as should_stop:
        train(settings, resume=resume, observers=[_Console()], should_stop=should_stop)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM and SIGUSR1, and yield a function that returns whether one has come."""
    caught: list[int] = []
    names = [name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has no SIGUSR1
    before = {name: signal.signal(getattr(signal, name), lambda number, _: caught.append(number)) for name in names}
    try:
        yield lambda: bool(caught)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


class _Console:
    """Observer that prints events on standard error. On a terminal, updates overwrite each other."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._max_steps = 0

    def __call__(self, event: Event) -> None:
        """Print an event."""
        kind = event["event"]
        if kind == "start":
            self._max_steps = event["config"]["run"]["max_steps"]
        if kind not in _TEXTS:
            return
        text = _TEXTS[kind](event, self._max_steps)
        if self._on_terminal and kind == "update":
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)
        else:
            click.echo(f"\r\x1b[K{text}" if self._on_terminal else text, err=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _update(event: Event, max_steps: int) -> str:
    return (
        f"{event['updates']:,}/{max_steps:,}  loss {event['loss']:.4f}  gradient {event['grad_norm']:.3f}  "
        f"lr {event['lr']:.2e}  {event['tokens_per_second']:,.0f} tokens/s  {_time(event['left'])} left"
    )


def _evaluation(event: Event, _: int) -> str:
    texts = [f"{event['updates']:,}"]
    for name, value in results_of(event).items():
        if isinstance(value, dict):
            value = "  ".join(f"{language} {number:.3f}" for language, number in value.items())
            texts.append(f"{name} {value}")
        else:
            texts.append(f"{name} {value:.3f}")
    return "  ".join([*texts, *["(best)"] * event["best"]])


_TEXTS: dict[str, Callable[[dict[str, Any], int], str]] = {
    "start": lambda event, _: (
        f"{event['parameters']:,} parameters, {event['processes']} process(es), {event['device']}, "
        f"from update {event['updates']:,}"
    ),
    "update": _update,
    "evaluation": _evaluation,
    "skipped": lambda event, _: (
        f"step {event['step']:,} skipped: its gradient is not finite ({event['in_a_row']} in a row)"
    ),
    "end": lambda event, _: f"{event['reason']} after {event['updates']:,} updates",
}
