"""The result of calling the tokenizer: ids and attention mask as lists or tensors; and truncation."""

from __future__ import annotations

from typing import Any

from xlm._io.arguments import check_choice
from xlm.errors import warn_caller


class Encoding(dict[str, Any]):
    """A dict of ``input_ids`` and ``attention_mask``, for the ``forward`` of a model; its items are attributes too.

    Each value is an int64 tensor or array (B, T), or a list of ints for each text. In ``attention_mask``, 1 marks a
    token and 0 padding.
    """

    @property
    def input_ids(self) -> Any:
        """The token ids."""
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        """The attention mask: 1 for each token, 0 for padding."""
        return self["attention_mask"]

    def to(self, device: Any) -> Encoding:
        """Move the tensors to a device, in place, and return this encoding; lists and arrays stay as they are."""
        self.update({name: value.to(device) for name, value in self.items() if hasattr(value, "to")})
        return self


TRUNCATIONS = (True, False, None, "longest_first", "only_first", "only_second")
"""The values of ``truncation``; True means ``"longest_first"``, and None truncates only if ``max_length`` is given."""


def truncation_for(truncation: bool | str | None, *, max_length: int | None, padding: bool | str = False) -> bool | str:
    """Return the truncation that applies, with the defaults of transformers; warn about ambiguous arguments.

    Args:
        truncation: One of ``TRUNCATIONS``.
        max_length: The largest number of ids, if given.
        padding: One of ``xlm.tokenizer.padding.PADDINGS``.

    Returns:
        One of ``TRUNCATIONS`` other than None.

    Raises:
        InputError: ``truncation`` is not in ``TRUNCATIONS``.
    """
    check_choice("truncation", TRUNCATIONS, truncation=truncation)
    if truncation is None and max_length is not None and padding in (False, "do_not_pad"):
        warn_caller(
            f"max_length={max_length} without truncation cuts the text to {max_length} ids, as transformers does; "
            "pass truncation=True to confirm, or truncation=False to keep the whole text"
        )
        return "longest_first"
    if not truncation and max_length is not None and padding in (True, "longest"):
        warn_caller(
            "`max_length` is ignored with padding to the longest text and no truncation; "
            "pass truncation=True or padding='max_length'"
        )
    return truncation or False


def truncate(
    ids: list[int], pair: list[int] | None, *, longest: int, truncation: bool | str
) -> tuple[list[int], list[int] | None]:
    """Return the ids of one or two texts, cut at their ends so that together they have at most ``longest`` ids.

    Args:
        ids: The ids of the first text.
        pair: The ids of the second text, or None.
        longest: The largest number of ids of both texts together.
        truncation: The result of ``truncation_for``. ``"longest_first"`` first cuts the longer text to the length of
            the other, then cuts both equally.
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
