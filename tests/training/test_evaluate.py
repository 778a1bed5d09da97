"""Perplexity by the stream protocol.

Oracle: the original's ``evaluate_clm`` on a model that it trained; the layout and the model's own loss, by hand.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.small_models import requested, small_model
from tests.training.runs import events
from xlm.checkpoint.original import read_dictionary
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.perplexity import perplexity
from xlm.scoring.stream import ArraySequence, Stream
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.objectives.clm import stream_perplexities
from xlm.training.processes import ModelCaller, Processes

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_original_s_perplexities(reference: Path, split: str) -> None:
    folder = reference / "checkpoints/clm_ende_multi30k"
    recorded = json.loads((folder / "reference.json").read_text("utf-8"))["evaluate_clm"]
    words = {word: index for index, word in enumerate(read_dictionary(folder / "clm_ende_multi30k.pth").words)}
    streams = {}
    for lang in ("de", "en"):
        lines = (folder / f"{split}.bpe.{lang}").read_text("utf-8").split("\n")[:-1]
        ids = [i for line in lines for i in [*(words.get(word, 3) for word in line.split()), 1]]
        streams[lang] = Stream(sequence=ArraySequence(np.array(ids)), rows=1, width=recorded["bptt"])
    model = XLMWithLMHeadModel.from_pretrained(folder / "clm_ende_multi30k.pth")
    found = stream_perplexities(ModelCaller(model), streams, processes=ALONE)
    for lang, value in found.items():
        # The original sums in float32 and has log_softmax, which is off by up to 6e-5 nats per token.
        assert value == pytest.approx(recorded[f"{split}_{lang}_clm_ppl"], rel=2e-5)


def test_what_the_log_says_is_what_the_command_says(data: Path, whole_run: Path) -> None:
    """Compare with ``perplexity``, called on the best model of a run and the raw text."""
    evaluation = [event for event in events(whole_run, "evaluation") if event["best"]][-1]
    model = XLMWithLMHeadModel.from_pretrained(whole_run / "best")
    tokenizer = XLMTokenizer.from_pretrained(whole_run / "best")
    texts = {lang: (data.parent / lang).read_text("utf-8").split("\n")[:-1] for lang in ("de", "en")}
    found = perplexity(model, tokenizer, texts, protocol="stream", window=8)
    assert found.perplexity == pytest.approx(evaluation["mean"], rel=1e-5)


def test_by_hand_and_in_any_number_of_rows() -> None:
    model = small_model().train()  # evaluation turns dropout off, and on again
    ids = np.arange(14, 14 + 45)
    stream = Stream(sequence=ArraySequence(ids), rows=1, width=6)
    nats, predicted = 0.0, 0
    model.eval()
    with torch.no_grad():
        for index in range(len(stream)):
            window = torch.from_numpy(stream.window(index))
            nats += float(requested(model(window, langs="en", labels=window).loss)) * 5
            predicted += 5
    model.train()
    for rows in (1, 3, 100):
        found = stream_perplexities(ModelCaller(model), {"en": stream}, processes=ALONE, rows=rows)
        assert found["en"] == pytest.approx(math.exp(nats / predicted), rel=1e-6)
    assert model.training


def test_shared_among_processes() -> None:
    """The sums of three processes together equal those of one process."""
    model = small_model()
    stream = Stream(sequence=ArraySequence(np.arange(14, 14 + 45)), rows=1, width=6)
    sums = [0.0, 0.0]

    class Part(Processes):
        def sums(self, values: list[float]) -> list[float]:
            sums[:] = [one + other for one, other in zip(sums, values, strict=True)]
            return values

    for rank in range(3):
        stream_perplexities(
            ModelCaller(model), {"en": stream}, processes=Part(rank=rank, count=3, device=torch.device("cpu"))
        )
    alone = stream_perplexities(ModelCaller(model), {"en": stream}, processes=ALONE)["en"]
    assert math.exp(sums[0] / sums[1]) == pytest.approx(alone, rel=1e-6)
