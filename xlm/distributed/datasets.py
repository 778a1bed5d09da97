"""Datasets of Ray: how they are made so that each unit goes its own way, and how they are read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from xlm.distributed.stages import RESULT


@contextmanager
def blocks_of_one_row(ray: Any) -> Iterator[None]:
    """Lets datasets that are made in here hand on each row as it comes, and give up what cannot be computed.

    Rows that come together in a block would go to one worker together.
    """
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.max_errored_blocks
    context.target_max_block_size, context.max_errored_blocks = 1, -1
    try:
        with warnings.catch_warnings():
            # Ray 2.60 announces the end of the only way to say what becomes of the units of a worker that died.
            warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
            yield
    finally:
        context.target_max_block_size, context.max_errored_blocks = before


def results(dataset: Any, *, progress: bool) -> Generator[dict[str, Any], None, None]:
    """Computes a dataset, and yields what has become of each unit, as it comes.

    Args:
        dataset: Tables of ``RESULT``.
        progress: Whether Ray shows its bars.
    """
    dataset.context.enable_progress_bars = progress
    with warnings.catch_warnings():
        # Which a small input causes, and nobody can do anything about.
        warnings.filterwarnings("ignore", "The minimum number of concurrent actors")
        yield from _rows(dataset)


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for data in batch.column(RESULT).to_pylist():
            yield json.loads(data)
