"""Progress bars in terminals, notebooks and logs, with ``tqdm``."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from xlm._io.arguments import check_choice

if TYPE_CHECKING:
    from typing_extensions import Self

_Group = TypeVar("_Group")

_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """Number of items that are done, shown on standard error or in a notebook while the ``with`` block runs.

    Outside terminals and notebooks, as in a log, each change is a new line, and there is one every ten seconds.

    Args:
        progress: Whether to show a bar; ``None`` shows it in terminals and notebooks only.
        unit: Name of the items in the plural.
        total: Number of items; ``None`` if unknown.
        label: Text in front of the bar.

    Attributes:
        total: As the argument; it may change while the bar is shown.
        done: Number of items that are done; before the ``with`` block, those that an earlier run has done.
        note: Text behind the numbers, shown with the next of them.

    Raises:
        InputError: ``progress`` is not True, False or None.
    """

    def __init__(self, progress: bool | None, *, unit: str, total: int | None = None, label: str = "") -> None:
        check_choice("progress", (True, False, None), progress=progress)
        self.total, self.done, self.note = total, 0, ""
        self._progress = progress
        self._options = {"unit": f" {unit}", "desc": label or None}
        self._bar: Any = None
        self._first = self._count = 0  # items before the current group, and in it

    def __enter__(self) -> Self:
        if self._progress is not False:
            self._bar = _bar(self._progress, total=self.total, initial=self.done, **self._options)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @classmethod
    def of(cls, items: object, progress: bool | None, *, unit: str, label: str = "") -> Self:
        """Return a bar for items, whose number is its total if it is known."""
        return cls(progress, unit=unit, total=operator.length_hint(items) or None, label=label)

    def groups(self, groups: Iterable[_Group], count: Callable[[_Group], int] = len) -> Iterator[_Group]:  # type: ignore[assignment]
        """Yield groups of items that are done together; a group is done when the next one is requested.

        Args:
            groups: The groups, read as needed.
            count: Returns the number of items in a group.
        """
        for group in groups:
            self._first, self._count = self.done, count(group)
            yield group
            self.show_share(1.0)

    def show_share(self, share: float) -> None:
        """Show that a share of the current group is done."""
        self.show(self._first + int(share * self._count))

    def show(self, done: int) -> None:
        """Show how many items are done."""
        self.done = done
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(done - self._bar.n)


def _bar(progress: bool | None, **options: Any) -> Any:
    """Return a bar of ``tqdm``; ``None`` if it is not to be shown."""
    from tqdm import auto

    if auto.notebook_tqdm is not auto.std_tqdm:  # in a notebook
        return auto.tqdm(**options)
    if sys.stderr.isatty():
        return auto.tqdm(**options, dynamic_ncols=True)
    return auto.tqdm(**options, file=_Lines(), mininterval=_SECONDS_BETWEEN_LINES) if progress else None


class _Lines:
    """Standard error as a file on which each state of a bar is a new line."""

    encoding = property(lambda self: getattr(sys.stderr, "encoding", None))

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
