"""Perplexity of held-out text by the original's protocol: the stream of one row.

Source: the original's ``evaluate_clm``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from xlm.data.stream import Stream
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.loss import stream_loss
from xlm.training.processes import Processes


@torch.no_grad()
def stream_perplexities(
    model: XLMWithLMHeadModel, streams: Mapping[str, Stream], *, processes: Processes, rows: int = 16
) -> dict[str, float]:
    """The perplexity of each language's stream.

    Args:
        model: Is in training mode again afterwards if it was before.
        streams: By language, each of one row; the windows are what the model sees of it at a time.
        processes: Share the windows.
        rows: Windows at a time.

    Returns:
        By language, ``exp`` of the mean nats of the predicted tokens.
    """
    was_training = model.training
    model.eval()
    try:
        return {language: _perplexity(model, language, stream, processes, rows) for language, stream in streams.items()}
    finally:
        model.train(was_training)


def _perplexity(model: XLMWithLMHeadModel, language: str, stream: Stream, processes: Processes, rows: int) -> float:
    assert stream.rows == 1
    mine = range(processes.rank, len(stream), processes.count)
    nats = predicted = 0.0
    for begin in range(0, len(mine), rows):
        windows = np.concatenate([stream.window(index) for index in mine[begin : begin + rows]])
        input_ids = torch.from_numpy(windows).to(processes.device)
        count = windows.shape[0] * (windows.shape[1] - 1)
        nats += float(stream_loss(model, input_ids, model.config.language_id(language))) * count
        predicted += count
    nats, predicted = processes.sums([nats, predicted])
    return math.exp(min(nats / predicted, 700.0)) if math.isfinite(nats) else math.inf
