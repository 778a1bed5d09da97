"""Options of scoring, with their defaults, checks and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from xlm._io.arguments import check_choice, check_count, check_flags, lists_options

TOO_LONG = ("windows", "refuse")
"""Policies for texts longer than the model's positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringOptions:
    """Options of ``score``, ``score_stream``, ``score_documents`` and ``score_frame``, as keyword arguments.

    Attributes:
        batch_size: Maximum number of texts in a batch; ``None`` for as many as ``batch_tokens`` allows.
        batch_tokens: Maximum number of tokens in a batch; ``None`` for 512 on a CPU and 32,768 elsewhere.
        ranks: Whether to return the rank of each token.
        entropies: Whether to return the entropy of each prediction.
        top: Number of most likely tokens to return at each position, with their log-probabilities.
        too_long: ``"windows"`` scores a text longer than the model's positions in overlapping windows; ``"refuse"``
            refuses it. The length is in tokens, with the opening one and without the closing one. The first window
            begins at the opening token and is as long as the model allows. Each further window scores ``stride`` more
            tokens and is filled with the text before them, without an opening token.
        stride: From 1 to the number of the model's positions; ``None`` for half of them. A smaller stride gives tokens
            more context and takes longer. The upper limit is checked once the model is known.
        closing: Whether the closing ``</s>`` of each text is scored. Without it, a text is the beginning of a sentence.

    Raises:
        InputError: An option has a value that is not allowed.
    """

    batch_size: int | None = None
    batch_tokens: int | None = None
    ranks: bool = False
    entropies: bool = False
    top: int = 0
    too_long: str = "windows"
    stride: int | None = None
    closing: bool = True

    def __post_init__(self) -> None:
        check_choice("`too_long` policy", TOO_LONG, too_long=self.too_long)
        limits = {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}
        check_count(**{name: limit for name, limit in limits.items() if limit is not None})
        check_flags(ranks=self.ranks, entropies=self.entropies, closing=self.closing)
        check_count(top=self.top, least=0)


class ScoringKeywords(TypedDict, total=False):
    """``ScoringOptions`` as keyword arguments, for type checkers."""

    batch_size: int | None
    batch_tokens: int | None
    ranks: bool
    entropies: bool
    top: int
    too_long: str
    stride: int | None
    closing: bool


shows_scoring_options = lists_options(ScoringOptions)
"""Decorator for functions that take the options of scoring as keyword arguments."""
