"""What Ray notes while it works on a dataset: what of it is shown, and what is kept for the end."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN_LINES = 3
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Heard(logging.Handler):
    """Keeps the last error that Ray noted.

    Attributes:
        error: Its last lines.
    """

    error: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """As ``logging.Handler``'s."""
        reason = record.exc_info[1] if record.exc_info else None
        self.error = brief(record.getMessage() if reason is None else str(reason))


@contextmanager
def listening() -> Iterator[Heard]:
    """Listens to what Ray Data notes, of which a terminal gets only that there is too little of everything.

    What cannot be computed is counted and done again. Ray's files of notes have all of it.
    """
    logger = logging.getLogger("ray.data")
    kinds = logging.StreamHandler, logging.FileHandler
    terminals = [each for each in logger.handlers if isinstance(each, kinds[0]) and not isinstance(each, kinds[1])]
    heard = Heard(logging.ERROR)
    logger.addHandler(heard)
    for terminal in terminals:
        terminal.addFilter(_of_resources)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)
        for terminal in terminals:
            terminal.removeFilter(_of_resources)


def _of_resources(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and "resources are not enough" in record.getMessage()


def brief(text: str) -> str:
    """The last lines of a message of Ray's, which begins with where it comes from, underlines, and is in colours."""
    lines = [line for line in _COLOURS.sub("", text).splitlines() if line.strip(" ^~")]
    return "\n".join(lines[-_SHOWN_LINES:])
