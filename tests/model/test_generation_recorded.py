"""Decoding of a trained model with the published vocabulary. Oracle: ``slow_decoding`` on the recorded checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.slow_decoding import Slow
from xlm.model.lm import XLMWithLMHeadModel


@pytest.mark.parametrize("lang", ["de", "en"])
def test_greedy_on_a_trained_model(reference: Path, lang: str) -> None:
    """A word that differs from the reference must be a near tie: 64,699 float32 scores are close to each other."""
    model = XLMWithLMHeadModel.from_pretrained(reference / "checkpoints/clm_ende_multi30k/clm_ende_multi30k.pth")
    # "</s>" alone, and followed by one or two frequent words.
    ids, lengths = torch.tensor([[1, 2, 2], [1, 14, 2], [1, 25, 17]]), torch.tensor([1, 2, 3])
    found = model.continuations(ids, lengths=lengths, langs=lang, max_new_tokens=12)
    assert {c.stop for c in found} <= {"eos", "max_new_tokens"}
    for c in found:
        slow = Slow(
            model=model,
            prompt=ids[c.prompt, : lengths[c.prompt]].tolist(),
            langs=[model.config.lang2id[lang]] * 20,
            limit=12,
        )
        for step, word in enumerate(c.tokens):
            logprobs = slow.logprobs(c.tokens[:step])
            best = max(slow.constrained(logprobs, c.tokens[:step]))
            assert logprobs[word] == pytest.approx(best, abs=1e-5)
            assert c.logprobs[step] == pytest.approx(logprobs[word], abs=1e-5)
        assert (c.tokens[-1] == 1) == (c.stop == "eos")
