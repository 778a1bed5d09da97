"""The text pipelines there are, each a row of choices; what they share is in the files beside this one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A text pipeline.

    Attributes:
        dialect: Whose reading of Moses' rules, one of ``moses.DIALECTS``.
        lang_required: Whether a text needs its language; otherwise none means English rules, and special tokens that
            stand in the text are recognised.
        lowers_first: Whether a text without a language is lower-cased before Moses sees it, not only after.
        limits_pieces: Whether a merged piece that is not in the vocabulary is split again.
        do_lowercase_and_remove_accent: What the tokenizer's setting of that name is, unless it is given.
        bos_token: The same.
    """

    dialect: str
    lang_required: bool = False
    lowers_first: bool = False
    limits_pieces: bool = False
    do_lowercase_and_remove_accent: bool = True
    bos_token: str = "<s>"


PRESETS = {
    "transformers": Preset(dialect="sacremoses"),
    "transformers-v4": Preset(dialect="sacremoses", lowers_first=True),
    "original": Preset(
        dialect="perl",
        lang_required=True,
        limits_pieces=True,
        do_lowercase_and_remove_accent=False,
        bos_token="</s>",
    ),
}
"""The text pipelines by name. Source of the first two: ``XLMTokenizer`` of transformers 5.x and 4.57."""
