"""What is told of a run while it goes on: events to a file, to a terminal, to TensorBoard.

An event is a JSON object. All have ``event`` and ``step``; by ``event``:

- ``start``: the configuration, the number of parameters, how many of them the first process keeps, the number of
  processes, the device.
- ``update``: ``updates``, ``loss`` (nats, mean over the updates since the last one), ``grad_norm``, ``lr``,
  ``language``, ``tokens_per_second``, ``seconds`` (of this process so far), ``left`` (seconds, estimated).
- ``evaluation``: ``updates``, ``perplexity`` by language, ``mean``, ``best`` (whether it is).
- ``skipped``: a step without a finite gradient: ``in_a_row``, ``skipped`` (in all).
- ``saved``, ``not_saved``: ``path``, and why not.
- ``end``: ``reason``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from xlm._atomic import write_text
from xlm.errors import DependencyError

LOG_FILE = "log.jsonl"

Event = dict[str, Any]
Observer = Callable[[Event], None]


def read_log(run: Path) -> Iterator[Event]:
    """Yields the events of a run; a last line that a kill cut short is left out."""
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
    """Appends each event to ``log.jsonl``.

    Args:
        run: Directory of the run.
        step: What the log tells of later steps is taken out: they are about to be made again.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        kept = [event for event in read_log(run) if event["step"] <= step]
        write_text(run / LOG_FILE, "".join(map(_line, kept)))
        self._path = run / LOG_FILE

    def __call__(self, event: Event) -> None:
        """Writes one event, at once."""
        try:
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(_line(event))
        except OSError as error:  # a full disk is no reason to end the run
            logging.getLogger("xlm").warning("The log could not be written: %s: %s", self._path, error.strerror)


def _line(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False) + "\n"


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def flush(self) -> None: ...


class TensorBoard:
    """Writes losses, rates and perplexities for TensorBoard into ``tensorboard/``.

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
        self._writer: _Writer = SummaryWriter(str(run / "tensorboard"))

    def __call__(self, event: Event) -> None:
        """Writes the numbers of one event."""
        if event["event"] == "update":
            for name in ("loss", "grad_norm", "lr", "tokens_per_second"):
                self._writer.add_scalar(name, event[name], event["updates"])
        elif event["event"] == "evaluation":
            for language, value in event["perplexity"].items():
                self._writer.add_scalar(f"perplexity/{language}", value, event["updates"])
            self._writer.flush()
