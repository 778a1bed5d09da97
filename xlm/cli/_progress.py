"""Progress of a long run, on standard error."""

from __future__ import annotations

import sys
import time

import click

_SECONDS_BETWEEN = 0.5
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Rows, tokens per second and time left: one changing line on a terminal, else a line now and then.

    Args:
        shown: Whether to show anything; ``None`` means on a terminal, unless the results go there too.
        total: Bytes of all input; 0 when that is unknown, and no time is given then.
    """

    def __init__(self, *, shown: bool | None, total: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = self._terminal and not sys.stdout.isatty() if shown is None else shown
        self._total = total
        self._start = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first rows were done, and bytes that were read then
        self._rows = self._tokens = 0

    def start(self, *, rows: int) -> None:
        """Set how many rows an earlier run has done."""
        self._rows = rows

    def update(self, *, rows: int, tokens: int, read: int) -> None:
        """Record and show progress.

        Args:
            rows: Number of rows done since the last call.
            tokens: Number of tokens scored since the last call.
            read: Number of bytes of input read so far.
        """
        self._rows += rows
        self._tokens += tokens
        now = time.monotonic()
        self._first = self._first or (now, read)
        if self._shown and now - self._last >= (_SECONDS_BETWEEN if self._terminal else _SECONDS_BETWEEN_LINES):
            self._last = now
            self._show(now, read)

    def end(self) -> None:
        """Show the final numbers."""
        if self._shown:
            self._show(time.monotonic(), self._total)
            if self._terminal:
                click.echo(err=True)

    def _show(self, now: float, read: int) -> None:
        seconds = now - self._start
        line = f"{self._rows:,} rows, {self._tokens / max(seconds, 1e-9):,.0f} tokens/s, {_clock(seconds)}"
        if self._total and self._first is not None:
            since, from_there = self._first
            if from_there < read < self._total:
                line += f", {_clock((now - since) * (self._total - read) / (read - from_there))} left"
        click.echo(f"\r{line}\x1b[K" if self._terminal else line, nl=not self._terminal, err=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
