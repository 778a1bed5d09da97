"""Refuse settings of the original, its forks and ``transformers`` that change the network in unsupported ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlm.errors import CheckpointError

_UNSUPPORTED = {
    # The original.
    "use_memory": "product-key memory layers",
    # FlauBERT, in its checkpoints and in the configurations of transformers.
    "pre_norm": "LayerNorm before each sublayer instead of after it",
    # TransCoder and CodeGen.
    "roberta_mode": "positions counted from the padding id",
    "spans_emb_encoder": "span embeddings",
    # Forks with layers of their own for each language.
    "lang_specific_LN": "a LayerNorm for each language",
    "lang_specific_FFN": "a feed-forward layer for each language",
    "lang_specific_ATTN": "attention for each language",
    "lang_specific_ADPT": "an adapter for each language",
    # transformers.
    "pruned_heads": "layers with fewer heads",
    "quantization_config": "quantized weights",
}
"""What each setting adds to the network when it is on; only off (false, zero, empty or absent) is implemented."""


def refuse_unsupported(settings: Mapping[str, Any], where: object) -> None:
    """Refuse settings that change the network in an unsupported way.

    Such a setting often leaves the names and shapes of tensors alone, so nothing else would reveal it.

    Args:
        settings: The ``params`` of an original checkpoint, or the contents of ``config.json``.
        where: The file, for the message.

    Raises:
        CheckpointError: At least one is on; the message names all of them.
    """
    if on := [name for name in _UNSUPPORTED if _is_on(settings.get(name))]:
        raise CheckpointError(
            "the model has parts that are not implemented",
            where=where,
            found="; ".join(f"{name} = {settings[name]!r:.80} ({_UNSUPPORTED[name]})" for name in on),
            expected=f"{', '.join(on)} off or absent",
            remedy="use the program that trained the model; without these parts its numbers would be wrong",
        )


def _is_on(value: object) -> bool:
    try:
        return bool(value)
    except (RuntimeError, ValueError):  # an array or tensor of several numbers
        return True
