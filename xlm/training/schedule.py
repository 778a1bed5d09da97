"""The learning rate of each update."""

from __future__ import annotations

import math

SCHEDULES = ("inverse_sqrt", "cosine", "constant")
"""``inverse_sqrt`` is the original's ``adam_inverse_sqrt``."""

START = 1e-7
"""Learning rate that the warm-up starts from. Source: the original's ``warmup_init_lr``."""


def learning_rate(update: int, *, schedule: str, lr: float, warmup: int, updates: int) -> float:
    """Returns the learning rate of one update.

    Args:
        update: Its number, from 0.
        schedule: One of ``SCHEDULES``. After the warm-up, ``inverse_sqrt`` falls with the root of the update's number,
            ``cosine`` falls to a tenth of ``lr`` at the end, ``constant`` stays.
        lr: The highest learning rate.
        warmup: Updates over which the rate rises to it from ``START``, in equal steps.
        updates: Updates of the whole run, where ``cosine`` ends.

    Source: the original's ``AdamInverseSqrtWithWarmup`` in ``src/optim.py``.
    """
    if update < warmup:
        return START + update * (lr - START) / warmup
    if schedule == "inverse_sqrt":
        return lr * math.sqrt(max(warmup, 1) / max(update, 1))
    if schedule == "cosine":
        done = min(1.0, (update - warmup) / max(1, updates - warmup))
        return lr * (0.55 + 0.45 * math.cos(math.pi * done))
    return lr
