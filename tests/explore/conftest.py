"""What the tests of the page share: the demo's files, and a small model behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.explore.small import Small
from tests.scoring.conftest import demo_files as demo_files


@pytest.fixture(scope="module")
def small(demo_files: Path) -> Iterator[Small]:
    """A small model with the usual limits."""
    made = Small(demo_files)
    yield made
    made.worker.close()
