"""The loop with an objective of another kind.

Oracle: 20 updates recorded from the original (losses, gradient norms, learning rates, final weights).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tokenizer.small import MERGES
from tests.training.runs import events, small_run, small_tokenizer, updates, weights, without_dropout
from xlm.checkpoint.original import read_dictionary
from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.errors import ConfigError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.config import ModelSettings, OptimiserSettings, RunSettings, TrainConfig
from xlm.training.loop import Trainer
from xlm.training.objectives.clm import stream_loss
from xlm.training.objectives.objective import Batch, Validation
from xlm.training.processes import ModelCaller, Processes

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


class FixedBatches:
    """Objective with fixed batches and fixed validation scores.

    Args:
        batches: (N, B, T) ids.
        lang_ids: (N,) language of each batch.
        bounds: Rows at which the pieces of a batch begin and end, such as 0, 1, B.
        scores: Score of each validation, in turn.
    """

    languages = ("de", "en")

    def __init__(
        self, batches: Tensor, lang_ids: Tensor, bounds: tuple[int, ...], scores: tuple[float, ...] = ()
    ) -> None:
        self._batches, self._lang_ids, self._bounds, self._scores = batches, lang_ids, bounds, list(scores)

    def identity(self) -> dict[str, Any]:
        return {"bounds": list(self._bounds)}

    def check(self, model: XLMWithLMHeadModel) -> None:
        if model.config.n_langs != 2:
            raise ConfigError("the model must have two languages")

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        for number in range(position.get("next", 0), len(self._batches)):
            pieces = [self._batches[number, begin:end] for begin, end in pairwise(self._bounds)]
            lang_id = int(self._lang_ids[number])
            # The mean over the pieces is the mean over all rows.
            weights = [len(piece) * len(pieces) / len(self._batches[number]) for piece in pieces]
            yield Batch(
                pieces=[(piece, lang_id, weight) for piece, weight in zip(pieces, weights, strict=True)],
                tokens=self._batches[number].numel(),
                language=f"language {lang_id}",
                position={"next": number + 1},
            )

    def loss(self, model: XLMWithLMHeadModel, piece: tuple[Tensor, int, float]) -> Tensor:
        input_ids, lang_id, weight = piece
        return stream_loss(model, input_ids, lang_id) * weight

    def validate(self, caller: ModelCaller) -> Validation | None:
        return Validation(results={"bleu": -self._scores[0]}, score=self._scores.pop(0)) if self._scores else None


@pytest.mark.parametrize("bounds", [(0, 8), (0, 3, 8)])
def test_twenty_updates_of_the_original_through_the_loop(
    reference: Path, tmp_path: Path, bounds: tuple[int, ...]
) -> None:
    """Also in uneven pieces, and stopped and resumed on the way."""
    recorded = json.loads((reference / "checkpoints/plain.training_run.json").read_text("utf-8"))
    tensors = load_file(reference / "checkpoints/plain.training_run.safetensors")
    start = reference / "checkpoints/plain.pth"
    tokenizer = XLMTokenizer(Vocabulary.from_dictionary(read_dictionary(start).words, where=start), MERGES)
    objective = FixedBatches(tensors["input_ids"], tensors["lang_id"], bounds)
    config = TrainConfig(
        data="none",
        output=str(tmp_path / "run"),
        model=ModelSettings(start_from=str(start), dropout=0.0, attention_dropout=0.0),
        optimiser=OptimiserSettings(lr=0.005, warmup_steps=8),
        run=RunSettings(max_steps=20, device="cpu", log_every=1, evaluate_every=5, save_every=0),
    )
    stops = iter([False] * 7 + [True])
    assert Trainer(config, objective, tokenizer, ALONE).run(lambda: next(stops)).updates == 8
    assert Trainer(config, objective, tokenizer, ALONE, resume=True).run().position == {"next": 20}
    logged = events(tmp_path / "run", "update")
    assert [event["language"] for event in logged] == [f"language {int(number)}" for number in tensors["lang_id"]]
    assert [event["lr"] for event in logged] == pytest.approx(recorded["lrs"], rel=1e-12)
    # The bounds of test_optimiser.
    assert [event["loss"] for event in logged] == pytest.approx(recorded["losses"], rel=2e-6)
    assert [event["grad_norm"] for event in logged] == pytest.approx(recorded["grad_norms"], rel=2e-6)
    assert not events(tmp_path / "run", "evaluation")
    for name, weight in weights(tmp_path / "run").items():
        expected = tensors[f"final.{ORIGINAL.theirs(name)}"]
        if not name.endswith("key.bias"):  # its gradient is rounding noise, see test_optimiser
            assert float((weight - expected).norm() / expected.norm()) < 1e-5, name


def _trainer(output: Path, **changes: Any) -> Trainer:
    vocab_size = small_tokenizer().vocab_size
    ids = torch.randint(14, vocab_size, (12, 4, 8), generator=torch.Generator().manual_seed(1))
    objective = FixedBatches(ids, torch.arange(12) % 2, (0, 1, 4), scores=(-3.0, -5.0, -4.0))
    config = small_run(Path("none"), output, model=without_dropout(), evaluate_every=4, **changes)
    return Trainer(config, objective, small_tokenizer(), ALONE)


def test_the_best_model_has_the_lowest_score(tmp_path: Path) -> None:
    """An objective negates a metric of which more is better."""
    assert _trainer(tmp_path / "run").run().best == -5.0
    found = events(tmp_path / "run", "evaluation")
    assert [(event["updates"], event["bleu"], event["best"]) for event in found] == [
        (4, 3.0, True),
        (8, 5.0, True),
        (12, 4.0, False),
    ]
    _trainer(tmp_path / "eight", max_steps=8).run()
    assert updates(tmp_path / "eight") == updates(tmp_path / "run")[:8]
    for name, weight in weights(tmp_path / "eight").items():
        assert torch.equal(weight, weights(tmp_path / "run", "best")[name]), name
