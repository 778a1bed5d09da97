"""The same model in ``transformers``: a map of names, and a copy of the weights."""

from __future__ import annotations

import re
from typing import Any

import pytest

from xlm.model.lm import XLMWithLMHeadModel

# Names in transformers and here; the first matching pattern applies.
NAMES = {
    r"transformer\.embeddings\.": "transformer.embeddings.word.",
    r"transformer\.position_embeddings\.": "transformer.embeddings.position.",
    r"transformer\.lang_embeddings\.": "transformer.embeddings.language.",
    r"transformer\.layer_norm_emb\.": "transformer.embeddings.norm.",
    r"transformer\.attentions\.(\d+)\.q_lin\.": r"transformer.layers.\1.attention.query.",
    r"transformer\.attentions\.(\d+)\.k_lin\.": r"transformer.layers.\1.attention.key.",
    r"transformer\.attentions\.(\d+)\.v_lin\.": r"transformer.layers.\1.attention.value.",
    r"transformer\.attentions\.(\d+)\.out_lin\.": r"transformer.layers.\1.attention.output.",
    r"transformer\.layer_norm1\.(\d+)\.": r"transformer.layers.\1.attention_norm.",
    r"transformer\.ffns\.(\d+)\.lin1\.": r"transformer.layers.\1.ffn.up.",
    r"transformer\.ffns\.(\d+)\.lin2\.": r"transformer.layers.\1.ffn.down.",
    r"transformer\.layer_norm2\.(\d+)\.": r"transformer.layers.\1.ffn_norm.",
    r"pred_layer\.proj\.(head|tail)\.": r"head.adaptive.\1.",
    r"pred_layer\.proj\.": "head.",
}


def name_here(name: str) -> str:
    """Return the name in this library of a tensor of ``transformers``."""
    for pattern, replacement in NAMES.items():
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    raise AssertionError(f"transformers has a tensor {name} that the map does not know")


def copy_weights(ours: XLMWithLMHeadModel, theirs: Any) -> None:
    """Copy this library's weights into a model of ``transformers``; every tensor must have a counterpart."""
    weights = ours.state_dict()
    unused = set(weights)
    found = {}
    for name in theirs.state_dict():
        counterpart = name_here(name)
        if counterpart == "head.weight" and ours.config.tied:
            counterpart = "transformer.embeddings.word.weight"
        found[name] = weights[counterpart]
        unused.discard(counterpart)
    assert not unused
    theirs.load_state_dict(found, strict=True)


def peer_of(ours: XLMWithLMHeadModel) -> Any:
    """Return the model of ``transformers`` with the same architecture and weights, in evaluation mode."""
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle: install xlm[test]")
    config = ours.config
    theirs = transformers.XLMWithLMHeadModel(
        transformers.XLMConfig(
            vocab_size=config.vocab_size,
            emb_dim=config.emb_dim,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            max_position_embeddings=config.max_position_embeddings,
            n_langs=config.n_langs,
            use_lang_emb=config.use_lang_emb,
            sinusoidal_embeddings=config.sinusoidal_embeddings,
            gelu_activation=config.gelu_activation,
            causal=config.causal,
            # share_inout_emb is read by nothing in transformers 5; this is what unties the two matrices there.
            tie_word_embeddings=config.tied,
            asm=config.asm,
            asm_cutoffs=list(config.asm_cutoffs),
            asm_div_value=config.asm_div_value,
        )
    ).eval()
    copy_weights(ours, theirs)
    return theirs
