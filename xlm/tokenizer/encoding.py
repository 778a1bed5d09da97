"""What calling the tokenizer returns: ids and attention mask of one text or of several, as lists or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlm._arguments import shown
from xlm.errors import InputError, warn_caller


class Encoding(dict[str, Any]):
    """The keyword arguments of a model's forward pass: ``input_ids`` and ``attention_mask``, also as attributes.

    Lists of ints, or int64 tensors or arrays (B, T). In ``attention_mask`` 1 is a token and 0 is padding.
    """

    @property
    def input_ids(self) -> Any:
        """The token ids."""
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        """1 where a token is, 0 where padding is."""
        return self["attention_mask"]


PADDINGS = (True, False, "longest", "max_length")
"""Ways of padding; True is ``"longest"``."""

MOST_PADDED = 1 << 24
"""The longest length that texts can be padded to."""

TRUNCATIONS = (True, False, None, "longest_first", "only_first", "only_second")
"""Ways of cutting texts that are too long; True is ``"longest_first"``, None cuts to a ``max_length`` that is given."""


def check_form(padding: bool | str, return_tensors: str | None) -> None:
    """Check how the rows of a call are to be put together.

    Args:
        padding: To be one of ``PADDINGS``.
        return_tensors: To be ``"pt"`` for torch, ``"np"`` for numpy, None for lists.

    Raises:
        InputError: One of them is something else.
    """
    if not isinstance(padding, (bool, str)) or padding not in PADDINGS:
        raise InputError(
            "Unknown padding",
            where="padding",
            found=shown(padding),
            expected="True, False, 'longest' or 'max_length'",
        )
    if not isinstance(return_tensors, (str, type(None))) or return_tensors not in (None, "pt", "np"):
        raise InputError(
            "Unknown kind of tensors",
            where="return_tensors",
            found=shown(return_tensors),
            expected="'pt', 'np' or None",
        )


def truncation_for(truncation: bool | str | None, *, max_length: int | None, padding: bool | str = False) -> bool | str:
    """Return how to cut texts, as transformers takes what it was told; warns where that may not be what was meant.

    Args:
        truncation: One of ``TRUNCATIONS``.
        max_length: The number of ids that was asked for, if one was.
        padding: One of ``PADDINGS``.

    Returns:
        One of ``TRUNCATIONS``, but for None.

    Raises:
        InputError: ``truncation`` is none of ``TRUNCATIONS``.
    """
    if not isinstance(truncation, (bool, str, type(None))) or truncation not in TRUNCATIONS:
        raise InputError(
            "Unknown truncation",
            where="truncation",
            found=shown(truncation),
            expected=" or ".join(map(repr, TRUNCATIONS)),
        )
    if truncation is None and max_length is not None and padding is False:
        warn_caller(
            f"max_length={max_length} without truncation cuts the text to {max_length} ids, as transformers does; "
            "say so with truncation=True, or leave it whole with truncation=False"
        )
        return "longest_first"
    if not truncation and max_length is not None and padding in (True, "longest"):
        warn_caller(
            "`max_length` is ignored where there is padding to the longest text and no truncation; "
            "give truncation=True or padding='max_length'"
        )
    return truncation or False


def truncate(
    ids: list[int], pair: list[int] | None, *, longest: int, truncation: bool | str
) -> tuple[list[int], list[int] | None]:
    """Returns the ids of a text, or of two, cut at the end to be no more than some number together.

    Args:
        ids: Of the first text.
        pair: Of the second, if there is one.
        longest: How many there may be.
        truncation: What ``truncation_for`` gave. ``"longest_first"`` cuts the longer of two texts to the length of the
            other, then both by half of what remains.
    """
    surplus = len(ids) + len(pair or ()) - longest
    if truncation is False or surplus <= 0:
        return ids, pair
    if truncation == "only_second":
        return ids, pair and pair[: max(len(pair) - surplus, 0)]
    if truncation == "only_first" or pair is None:
        return ids[: max(len(ids) - surplus, 0)], pair
    from_longer = min(abs(len(pair) - len(ids)), surplus)
    half, rest = (surplus - from_longer) // 2, (surplus - from_longer + 1) // 2
    if len(ids) > len(pair):
        from_ids, from_pair = from_longer + half, rest
    else:
        from_ids, from_pair = half, from_longer + rest
    return ids[: max(len(ids) - from_ids, 0)], pair[: max(len(pair) - from_pair, 0)]


def collate(
    rows: Sequence[list[int]], *, pad_id: int, padding: bool | str, longest: int, return_tensors: str | None
) -> Encoding:
    """Returns the ids of several texts as one ``Encoding``, padded on the right.

    Args:
        rows: The ids of each text.
        pad_id: The id to pad with.
        padding: True or ``"longest"`` to pad to the longest row, ``"max_length"`` to ``longest``, False not to pad.
        longest: Number of ids that ``"max_length"`` pads to.
        return_tensors: ``"pt"`` for torch, ``"np"`` for numpy, None for lists.

    Raises:
        InputError: No rows, or tensors asked for from rows of different lengths.
    """
    if not rows:
        raise InputError("There are no texts to encode", where="text", found="an empty list")
    mask = [[1] * len(row) for row in rows]
    if padding:
        longest = longest if padding == "max_length" else max(map(len, rows))
        rows = [row + [pad_id] * (longest - len(row)) for row in rows]
        mask = [row + [0] * (longest - len(row)) for row in mask]
    if return_tensors is None:
        return Encoding(input_ids=list(rows), attention_mask=mask)
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            "Rows of different lengths cannot be one tensor",
            where="return_tensors",
            found=f"lengths from {min(map(len, rows))} to {max(map(len, rows))} tokens",
            remedy="pass padding=True",
        )
    if return_tensors == "np":
        import numpy as np

        return Encoding(input_ids=np.array(rows, dtype=np.int64), attention_mask=np.array(mask, dtype=np.int64))
    import torch

    return Encoding(input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask))
