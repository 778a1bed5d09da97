"""``xlm train``: a configuration and prepared text to a model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xlm.training.log import Event


@click.command(short_help="Prepared text to a trained model.")
@click.argument("config")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key, such as run.updates=100.")
@click.option("--resume", is_flag=True, help="Go on from the newest whole checkpoint in the output, if there is one.")
def command(config: str, changes: tuple[str, ...], resume: bool) -> None:
    r"""Trains a model as CONFIG says: a TOML file, or the name of a configuration that comes with xlm.

    The output directory of the run holds log.jsonl, checkpoints/, best/ (lowest mean perplexity on the held-out text)
    and last/; the latter two are model directories that every other command takes. On SIGTERM or SIGUSR1 the state is
    saved after the step at hand, and the command ends with status 0; --resume goes on from there.

    For several processes: torchrun --nproc-per-node N -m xlm train CONFIG

    \b
    Example:
        xlm train clm_ende_small --set data=data --set output=run
        xlm train clm_ende_small --set data=data --set output=run --resume
    """
    from xlm.training.config import load_config
    from xlm.training.loop import train

    settings = load_config(config, changes)
    with _asked_to_stop() as should_stop:
        train(settings, resume=resume, observers=[_Console()], should_stop=should_stop)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a signal asked for an end, which then comes after the step at hand."""
    asked: list[int] = []
    names = [name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # Windows has no SIGUSR1
    before = {name: signal.signal(getattr(signal, name), lambda number, _: asked.append(number)) for name in names}
    try:
        yield lambda: bool(asked)
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


class _Console:
    """Shows events: on a terminal one line that changes, otherwise a line each."""

    def __init__(self) -> None:
        self._changing = sys.stderr.isatty()
        self._updates = 0

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        shown = _TEXTS.get(event["event"])
        if event["event"] == "start":
            self._updates = event["config"]["run"]["updates"]
        if shown is None:
            return
        text = shown(event, self._updates)
        if self._changing and event["event"] == "update":
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)
        else:
            click.echo(f"\r\x1b[K{text}" if self._changing else text, err=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _update(event: Event, updates: int) -> str:
    return (
        f"{event['updates']:,}/{updates:,}  loss {event['loss']:.4f}  gradient {event['grad_norm']:.3f}  "
        f"lr {event['lr']:.2e}  {event['tokens_per_second']:,.0f} tokens/s  {_time(event['left'])} left"
    )


def _evaluation(event: Event, _: int) -> str:
    each = "  ".join(f"{language} {value:.3f}" for language, value in event["perplexity"].items())
    return f"{event['updates']:,}  perplexity {each}  mean {event['mean']:.3f}{'  (best)' if event['best'] else ''}"


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
