"""BLEU. Oracles: the original's evaluator on the files that it wrote, and the definition computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from xlm.errors import InputError
from xlm.translation.bleu import corpus_bleu


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("direction", ["en-de", "de-en"])
def test_tokenised_bleu_is_that_of_the_original(reference: Path, split: str, direction: str) -> None:
    folder = reference / "unmt"
    recorded = json.loads((folder / "encdec_plain.evaluation.json").read_text())["scores"]
    lines = [
        (folder / "evaluation" / f"{name}.{direction}.{split}.txt").read_text("utf-8").split("\n")[:-1]
        for name in ("hyp3", "ref")
    ]
    # Its scores have two decimals.
    assert corpus_bleu(*lines, tokenized=True).score == pytest.approx(
        recorded[f"{split}_{direction}_mt_bleu"], abs=0.006
    )


def test_tokenised_bleu_by_hand() -> None:
    # Matches of 1 to 4 words: 5 of 6, 4 of 5, 3 of 4, 2 of 3; the translation is one word shorter than the reference.
    bleu = corpus_bleu(["a b c d e x"], ["a b c d e f g"], tokenized=True)
    expected = math.exp(1 - 7 / 6) * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert bleu.score == pytest.approx(100 * expected)
    assert "tok:none|smooth:none" in bleu.signature


def test_text_is_tokenised_first() -> None:
    assert corpus_bleu(["Yes, that is it."], ["Yes , that is it ."]).score == pytest.approx(100)
    assert "tok:13a|smooth:exp" in corpus_bleu(["a"], ["a"]).signature


@pytest.mark.parametrize("references", [[], ["a", "b"]])
def test_another_number_of_references_is_refused(references: list[str]) -> None:
    with pytest.raises(InputError, match="differ in number"):
        corpus_bleu(["a"], references)


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"(?i)there are no translations"):
        corpus_bleu([], [])
