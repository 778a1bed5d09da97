"""An exported directory in minicons. Oracle: our own model, called without a language as minicons calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.demo_files import write_demo_files
from xlm import XLMTokenizer, XLMWithLMHeadModel, convert, score

# minicons and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


def test_it_scores_as_a_model_without_a_language_does(tmp_path: Path) -> None:
    scorer = pytest.importorskip("minicons.scorer")
    write_demo_files(tmp_path)
    convert(tmp_path / "demo.pth", tmp_path / "model", codes=tmp_path / "codes")
    text = "The small dog is sleeping."
    (found,) = scorer.IncrementalLMScorer(str(tmp_path / "model"), "cpu").token_score([text])
    model = XLMWithLMHeadModel.from_pretrained(tmp_path / "model")
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer.encode(text, lang="en")
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]
    assert [token for token, _ in found[1:]] == tokenizer.convert_ids_to_tokens(ids[1:])
    # Both in float32, in another order.
    assert [value for _, value in found[1:]] == pytest.approx(expected, abs=1e-5)
    (ours,) = score(model, tokenizer, [text], lang="en")
    assert max(abs(a - b) for a, b in zip(ours.logprobs, expected, strict=True)) > 1e-3  # the language does matter
