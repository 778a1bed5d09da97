"""Perplexity of held-out text by the original's protocol: the stream of one row.

Source: the original's ``evaluate_clm``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from xlm.scoring.stream import Stream
from xlm.training.processes import Processes
from xlm.training.setup import LossModule


@torch.no_grad()
def stream_perplexities(
    loss: LossModule, streams: Mapping[str, Stream], *, processes: Processes, rows: int = 16
) -> dict[str, float]:
    """The perplexity of each language's stream.

    Args:
        loss: Of the model, which is in training mode again afterwards if it was before.
        streams: By language, each of one row; the windows are what the model sees of it at a time.
        processes: Share the windows.
        rows: Windows at a time.

    Returns:
        By language, ``exp`` of the mean nats of the predicted tokens.
    """
    was_training = loss.training
    loss.eval()
    try:
        return {language: _perplexity(loss, language, stream, processes, rows) for language, stream in streams.items()}
    finally:
        loss.train(was_training)


def _perplexity(loss: LossModule, language: str, stream: Stream, processes: Processes, rows: int) -> float:
    assert stream.rows == 1
    mine = range(processes.rank, len(stream), processes.count)
    nats = predicted = 0.0
    # As often as the first process, which has the most: where weights are shared out, all compute or none can.
    for begin in range(0, len(range(0, len(stream), processes.count)), rows):
        indices = mine[begin : begin + rows]
        windows = np.concatenate([stream.window(index) for index in indices or [0]])
        found = loss(torch.from_numpy(windows).to(processes.device), loss.model.config.language_id(language))
        count = len(indices) * (stream.width - 1)
        nats += float(found) * count
        predicted += count
    nats, predicted = processes.sums([nats, predicted])
    return math.exp(min(nats / predicted, 700.0)) if math.isfinite(nats) else math.inf
