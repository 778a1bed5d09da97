"""Imports of libraries that only parts of this package need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xlm.errors import DependencyError


@contextmanager
def needing(what: str, *, where: str, install: str) -> Iterator[None]:
    """Turn an ``ImportError`` in the block into a ``DependencyError``.

    Args:
        what: What is missing, such as "matplotlib is not installed".
        where: What needs it.
        install: What to give to ``pip install``.
    """
    try:
        yield
    except ImportError as error:
        raise DependencyError(what, where=where, found=error, remedy=f"pip install {install}") from error
