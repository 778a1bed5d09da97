"""Map the tensor names of each checkpoint format to ours and back.

A row of a table is a pair of names: ours, and that of the format (theirs). ``{}`` in a name stands for an integer. Both
names contain the same integers in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

_LAYER_PARTS = (
    ("attention.query", "attentions.{}.q_lin"),
    ("attention.key", "attentions.{}.k_lin"),
    ("attention.value", "attentions.{}.v_lin"),
    ("attention.output", "attentions.{}.out_lin"),
    ("attention_norm", "layer_norm1.{}"),
    # Only in decoders that attend to a source.
    ("cross_attention.query", "encoder_attn.{}.q_lin"),
    ("cross_attention.key", "encoder_attn.{}.k_lin"),
    ("cross_attention.value", "encoder_attn.{}.v_lin"),
    ("cross_attention.output", "encoder_attn.{}.out_lin"),
    ("cross_attention_norm", "layer_norm15.{}"),
    ("ffn.up", "ffns.{}.lin1"),
    ("ffn.down", "ffns.{}.lin2"),
    ("ffn_norm", "layer_norm2.{}"),
)

_STACK_ROWS = (
    ("transformer.embeddings.position.weight", "position_embeddings.weight"),
    ("transformer.embeddings.language.weight", "lang_embeddings.weight"),
    ("transformer.embeddings.word.weight", "embeddings.weight"),
    ("transformer.embeddings.norm.weight", "layer_norm_emb.weight"),
    ("transformer.embeddings.norm.bias", "layer_norm_emb.bias"),
    *(
        (f"transformer.layers.{{}}.{ours}.{kind}", f"{theirs}.{kind}")
        for ours, theirs in _LAYER_PARTS
        for kind in ("weight", "bias")
    ),
)

_HEAD_ROWS = (
    ("head.weight", "pred_layer.proj.weight"),
    ("head.bias", "pred_layer.proj.bias"),
    ("head.adaptive.head.weight", "pred_layer.proj.head.weight"),
    ("head.adaptive.head.bias", "pred_layer.proj.head.bias"),
    ("head.adaptive.tail.{}.{}.weight", "pred_layer.proj.tail.{}.{}.weight"),
)


HALVES = ("encoder", "decoder")
"""Halves of an encoder-decoder. The names of its tensors begin with ``encoder.`` or ``decoder.``."""


@dataclass(frozen=True)
class KeyTable:
    """One-to-one map between this library's tensor names (ours) and those of a checkpoint format (theirs).

    Attributes:
        rows: Pairs of names (ours, theirs).
        dropped: Tensor names of the format that are ignored.
    """

    rows: tuple[tuple[str, str], ...]
    dropped: frozenset[str] = frozenset()

    @cached_property
    def _to_ours(self) -> dict[str, str]:
        return {theirs: ours for ours, theirs in self.rows}

    @cached_property
    def _to_theirs(self) -> dict[str, str]:
        return dict(self.rows)

    def ours(self, theirs: str) -> str | None:
        """Return our name for a tensor name of the format, or ``None`` if the table lacks that name."""
        return _translate(theirs, self._to_ours)

    def theirs(self, ours: str) -> str:
        """Translate one of our tensor names to the format's name; a prefix ``encoder.`` or ``decoder.`` is kept."""
        half = next((f"{half}." for half in HALVES if ours.startswith(f"{half}.")), "")
        name = _translate(ours.removeprefix(half), self._to_theirs)
        assert name is not None, f"{ours} is missing in a key table"
        return half + name


def _translate(name: str, patterns: dict[str, str]) -> str | None:
    if "{" in name:
        return None
    parts = name.split(".")
    numbers = [part for part in parts if _is_number(part)]
    pattern = patterns.get(".".join("{}" if _is_number(part) else part for part in parts))
    return None if pattern is None else pattern.format(*numbers)


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and (part == "0" or part[0] != "0")


OURS = KeyTable(tuple((ours, ours) for ours, _ in (*_STACK_ROWS, *_HEAD_ROWS)))
"""Tensor names of this library's ``XLMWithLMHeadModel``, including the head's weight when it is tied."""

ORIGINAL = KeyTable((*_STACK_ROWS, *_HEAD_ROWS))
"""Tensor names of the original's ``TransformerModel``, without the prefix ``module.`` of multi-GPU runs."""

TRANSFORMERS = KeyTable(
    (*((ours, f"transformer.{theirs}") for ours, theirs in _STACK_ROWS), *_HEAD_ROWS),
    # A buffer with the integers 0 to 511, which transformers 4 saved.
    dropped=frozenset({"transformer.position_ids"}),
)
"""Tensor names of ``XLMWithLMHeadModel`` in ``transformers``."""

HEADLESS = KeyTable(_STACK_ROWS, dropped=frozenset({"position_ids"}))
"""Tensor names of ``XLMModel`` in ``transformers``. Models with a head have the same names after ``transformer.``."""
