"""Scores that are no numbers: refused before a token is chosen by them.

Shapes: B rows.
"""

from __future__ import annotations

from torch import Tensor

from xlm.errors import XLMError


def check_finite(summary_B: Tensor) -> None:
    """Refuses rows of scores among which is NaN or infinity, or nothing but minus infinity.

    Args:
        summary_B: (B,), of each row what shows that: its largest score, or the logarithm of its sum of exponentials.

    Raises:
        XLMError: A row's is not finite.
    """
    finite_B = summary_B.isfinite()
    if not bool(finite_B.all()):
        raise XLMError(
            "the model's scores of the next token are not finite",
            where="logits",
            found=f"NaN or infinity in {int((~finite_B).sum())} of {len(finite_B)} rows",
            expected="finite scores",
            remedy="look for NaN among the weights; where they are in half precision, load the model in float32",
        )
