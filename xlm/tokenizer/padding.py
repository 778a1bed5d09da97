"""Padding: encodings of different lengths become one batch, as lists or tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xlm._io.arguments import check_choice, check_count, shown
from xlm.errors import InputError
from xlm.tokenizer.encoding import Encoding

PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
"""The values of ``padding``; True means ``"longest"``, and False means ``"do_not_pad"``."""

SIDES = ("right", "left")
"""The values of ``padding_side``."""

MOST_PADDED = 1 << 24
"""The largest number of ids that rows are padded to."""

FILLS = {"attention_mask": 0, "special_tokens_mask": 1, "token_type_ids": 0}
"""What pads each entry of an encoding other than ``input_ids``; other entries are not padded."""


def check_padding(
    padding: bool | str,
    return_tensors: str | None,
    *,
    pad_to_multiple_of: int | None = None,
    padding_side: str = "right",
) -> None:
    """Raise ``InputError`` unless all arguments are valid; ``return_tensors`` is "pt", "np" or None."""
    check_choice("padding", PADDINGS, padding=padding)
    check_choice("tensor type", ("pt", "np", None), return_tensors=return_tensors)
    check_choice("side", SIDES, padding_side=padding_side)
    if pad_to_multiple_of is not None:
        check_count(pad_to_multiple_of=pad_to_multiple_of, most=MOST_PADDED)


def as_columns(encodings: Any) -> tuple[dict[str, Any], str | None]:
    """Return encodings as one dict of lists, and the tensor type that they had.

    Args:
        encodings: A mapping from ``input_ids`` and other names to the values of one text, or to those of each text; or
            a list of mappings, one for each text. Values are ints, lists, arrays or tensors.

    Returns:
        The dict, whose values hold no tensors, and "pt", "np" or None.

    Raises:
        InputError: These are no encodings, or they do not have the same entries.
    """
    if isinstance(encodings, Mapping):
        columns = dict(encodings)
    elif isinstance(encodings, Sequence) and encodings and all(isinstance(one, Mapping) for one in encodings):
        names = list(encodings[0])
        for index, one in enumerate(encodings):
            if one.keys() != encodings[0].keys():
                raise InputError(
                    "the encodings have different entries",
                    where=f"encoded_inputs[{index}]",
                    found=", ".join(map(str, one)),
                    expected=", ".join(map(str, names)),
                )
        columns = {name: [one[name] for one in encodings] for name in names}
    else:
        raise InputError(
            "not an encoding, nor a list of encodings",
            where="encoded_inputs",
            found="an empty list" if isinstance(encodings, list) and not encodings else shown(encodings),
            expected="what calling the tokenizer returns, or a list of it",
        )
    ids = columns.get("input_ids")
    if not hasattr(ids, "tolist") and (not isinstance(ids, Sequence) or isinstance(ids, str)):
        raise InputError(
            "the encoding has no input_ids",
            where="encoded_inputs",
            found=", ".join(map(str, columns)) or "an empty encoding",
            expected="input_ids, as a list, array or tensor",
        )
    return {name: _plain(value) for name, value in columns.items()}, _tensor_type(ids)


def _tensor_type(values: Any) -> str | None:
    first = values if hasattr(values, "tolist") else next(iter(values), None)
    # The name of the module tells them apart without importing torch.
    return {"numpy": "np", "torch": "pt"}.get(type(first).__module__.partition(".")[0])


def _plain(value: Any) -> Any:
    """Return a value with lists in place of arrays and tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def pad_columns(
    columns: Mapping[str, Any],
    *,
    fills: Mapping[str, int],
    padding: bool | str,
    longest: int,
    pad_to_multiple_of: int | None = None,
    padding_side: str = "right",
) -> Encoding:
    """Return the rows of each named column, padded to one length.

    Args:
        columns: The rows of ints of each entry; ``input_ids`` determines the length.
        fills: The int that pads each entry; entries that are not named are returned as they are.
        padding: One of ``PADDINGS``.
        longest: The number of ids that ``"max_length"`` pads to.
        pad_to_multiple_of: The length is rounded up to a multiple of this number; None does not round.
        padding_side: One of ``SIDES``.
    """
    if padding in (False, "do_not_pad"):
        return Encoding(columns)
    length = longest if padding == "max_length" else max(map(len, columns["input_ids"]), default=0)
    if pad_to_multiple_of:
        length = -(-length // pad_to_multiple_of) * pad_to_multiple_of

    def padded(row: Sequence[int], fill: int) -> list[int]:
        rest = [fill] * (length - len(row))
        return [*rest, *row] if padding_side == "left" else [*row, *rest]

    return Encoding(
        {name: [padded(row, fills[name]) for row in rows] if name in fills else rows for name, rows in columns.items()}
    )


def with_tensors(
    encoding: Mapping[str, Any], return_tensors: str | None, *, remedy: str = "pass padding=True"
) -> Encoding:
    """Return an encoding with tensors in place of lists.

    Args:
        encoding: Lists of numbers, or of rows of numbers.
        return_tensors: ``"pt"`` for torch, ``"np"`` for numpy, None for lists.
        remedy: What the user can do if rows differ in length.

    Raises:
        InputError: The rows of an entry differ in length, or hold no numbers.
    """
    if return_tensors is None:
        return Encoding(encoding)
    if return_tensors == "np":
        import numpy as np

        make: Any = np.array
    else:
        import torch

        make = torch.tensor
    return Encoding({name: _made(make, name, values, remedy) for name, values in encoding.items()})


def _made(make: Callable[[Any], Any], name: str, values: Any, remedy: str) -> Any:
    lengths = {len(row) for row in values if isinstance(row, list)} if isinstance(values, list) else set()
    if len(lengths) > 1:
        raise InputError(
            "rows of different lengths cannot form one tensor",
            where=name,
            found=f"lengths from {min(lengths)} to {max(lengths)}",
            remedy=remedy,
        )
    try:
        tensor = make(values)
        is_numeric = getattr(tensor.dtype, "kind", "i") in "biuf"  # numpy makes arrays of anything
    except (TypeError, ValueError, RuntimeError, OverflowError):
        is_numeric = False
    if not is_numeric:
        raise InputError(
            "the values cannot form a tensor",
            where=name,
            found=shown(values[0] if isinstance(values, list) and values else values),
            expected="numbers, the same number of them for each text",
            remedy=f"remove {name} from the encodings",
        )
    return tensor
