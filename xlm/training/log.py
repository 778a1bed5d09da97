"""Events of a run, and what records them: the log file and TensorBoard.

An event is a JSON object with ``event``, its kind, ``step``, the number of batches taken, and by kind:

- ``start``: ``config``, ``parameters`` (their number), ``kept`` (by the first process), ``processes`` (their number),
  ``device``, ``updates`` (made before, if the run is resumed).
- ``update``: ``updates``, ``loss`` (nats, mean over the updates since the last such event), ``grad_norm``, ``lr``,
  ``language``, ``tokens_per_second``, ``seconds`` (since the process started to train), ``left`` (seconds, estimated).
- ``evaluation``: ``updates``, ``best`` (whether the model is the best so far), and the results of the objective: for
  causal language models ``perplexity`` by language, and ``mean``.
- ``skipped``: a step had no finite gradient: ``in_a_row``, ``skipped`` (in total).
- ``saved``: ``path``. ``not_saved``: ``path``, ``why``.
- ``end``: ``reason``, ``updates``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from xlm._io.atomic import write_text
from xlm.errors import DependencyError

LOG_FILE = "log.jsonl"

Event = dict[str, Any]
Observer = Callable[[Event], None]


def read_log(run: Path) -> Iterator[Event]:
    """Yield the events of a run, without a last line that was cut short."""
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
        except OSError as error:  # a full disk does not end the run
            logging.getLogger("xlm").warning("the log could not be written: %s: %s", self._path, error.strerror)


def _line(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False) + "\n"


class _Writer(Protocol):
    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def flush(self) -> None: ...


class TensorBoard:
    """Observer that writes losses, learning rates and perplexities for TensorBoard to ``tensorboard/``.

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
        """Write the numbers of an event."""
        if event["event"] == "update":
            for name in ("loss", "grad_norm", "lr", "tokens_per_second"):
                self._writer.add_scalar(name, event[name], event["updates"])
        elif event["event"] == "evaluation":
            for language, value in event["perplexity"].items():
                self._writer.add_scalar(f"perplexity/{language}", value, event["updates"])
            self._writer.flush()
