"""The published architecture at full size with random weights: 6 layers of width 1024, 64,699 words.

Oracle: ``transformers`` 5.x on the published ``config.json`` with ``causal`` set to true, run here and now; bound as in
``test_against_transformers.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.model.small_models import random_ids, relative_error, requested
from tests.model.transformers_peer import copy_weights
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

BOUND = 2e-6


@pytest.mark.slow
@torch.no_grad()
def test_equal_logits_in_both_languages(reference: Path) -> None:
    transformers = pytest.importorskip("transformers")
    published = json.loads((reference / "published" / "xlm-clm-ende-1024" / "config.json").read_text("utf-8"))
    torch.manual_seed(0)
    ours = XLMWithLMHeadModel(XLMConfig.clm_ende_1024()).eval()
    theirs = transformers.XLMWithLMHeadModel(transformers.XLMConfig(**{**published, "causal": True})).eval()
    copy_weights(ours, theirs)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 142_422_203
    ids = random_ids(2, 64, high=64699)
    langs = torch.tensor([[0], [1]]).expand(2, 64)
    found = ours(ids, langs=langs, output_hidden_states=True)
    expected = theirs(ids, langs=langs, output_hidden_states=True)
    assert relative_error(found.logits, expected.logits) < BOUND
    for here, there in zip(requested(found.hidden_states), requested(expected.hidden_states), strict=True):
        assert relative_error(here, there) < BOUND
