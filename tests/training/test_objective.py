"""The training loop with objectives other than the causal one.

Oracle: 20 updates recorded from the original (losses, gradient norms, learning rates, final weights).
"""

from __future__ import annotations

import dataclasses
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
from tests.training.runs import equal, events, small_run, small_tokenizer, updates, weights, without_dropout
from xlm.checkpoint.original import read_dictionary
from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.errors import ConfigError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.config import ModelSettings, OptimiserSettings, RunSettings, TrainConfig
from xlm.training.loop import Trainer
from xlm.training.objectives import Batch
from xlm.training.objectives.clm import stream_loss
from xlm.training.optimiser import OriginalAdam, learning_rate
from xlm.training.processes import ModelCaller, Processes

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


class FixedBatches:
    """Objective with fixed batches and fixed validation scores.

    Args:
        batches: (N, B, T) ids.
        lang_ids: (N,) language of each batch.
        bounds: Rows at which the pieces of a batch begin and end, such as 0, 1, B.
        scores: BLEU of each validation, in turn.
        name: Name of the objective in the log.
    """

    languages = ("de", "en")
    metrics: Mapping[str, bool]

    def __init__(
        self,
        batches: Tensor,
        lang_ids: Tensor,
        bounds: tuple[int, ...],
        scores: tuple[float, ...] = (),
        name: str = "fixed",
    ) -> None:
        self._batches, self._lang_ids, self._bounds, self._scores = batches, lang_ids, bounds, list(scores)
        self._name = name
        self.metrics = {"bleu.de-en": True, "perplexity": False} if scores else {}

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
                objective=self._name,
                language=f"language {lang_id}",
                position={"next": number + 1},
            )

    def loss(self, model: XLMWithLMHeadModel, piece: tuple[Tensor, int, float]) -> Tensor:
        input_ids, lang_id, weight = piece
        return stream_loss(model, input_ids, lang_id) * weight

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        bleu = self._scores.pop(0)
        return {"bleu": {"de-en": bleu}, "perplexity": 10 * bleu}


@pytest.mark.parametrize("bounds", [(0, 8), (0, 3, 8)])
def test_twenty_updates_of_the_original_through_the_loop(
    reference: Path, tmp_path: Path, bounds: tuple[int, ...]
) -> None:
    """The run is stopped and resumed; the pieces of a batch may differ in size."""
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


def _objective(**options: Any) -> FixedBatches:
    ids = torch.randint(14, small_tokenizer().vocab_size, (12, 4, 8), generator=torch.Generator().manual_seed(1))
    return FixedBatches(ids, torch.arange(12) % 2, (0, 1, 4), **options)


def _trainer(output: Path, *, resume: bool = False, **changes: Any) -> Trainer:
    objective = _objective(scores=(3.0, 5.0, 4.0))
    config = small_run(Path("none"), output, model=without_dropout(), evaluate_every=4, **changes)
    return Trainer(config, objective, small_tokenizer(), ALONE, resume=resume)


def test_the_best_model_has_the_highest_bleu(tmp_path: Path) -> None:
    assert _trainer(tmp_path / "run").run().best == 5.0
    found = events(tmp_path / "run", "evaluation")
    assert [(event["updates"], event["bleu"]["de-en"], event["best"]) for event in found] == [
        (4, 3.0, True),
        (8, 5.0, True),
        (12, 4.0, False),
    ]
    _trainer(tmp_path / "eight", max_steps=8).run()
    assert updates(tmp_path / "eight") == updates(tmp_path / "run")[:8]
    for name, weight in weights(tmp_path / "eight").items():
        assert torch.equal(weight, weights(tmp_path / "run", "best")[name]), name


def test_the_best_model_has_the_lowest_perplexity_if_that_is_configured(tmp_path: Path) -> None:
    assert _trainer(tmp_path / "run", best_metric="perplexity").run().best == 30.0
    assert [event["best"] for event in events(tmp_path / "run", "evaluation")] == [True, False, False]
    with pytest.raises(ConfigError, match=r"(?s)No such metric.*bleu.de-en, perplexity"):
        _trainer(tmp_path / "other", best_metric="bleu")


def test_a_resumed_run_may_choose_another_metric(tmp_path: Path) -> None:
    _trainer(tmp_path / "run", max_steps=4).run()
    progress = _trainer(tmp_path / "run", resume=True, best_metric="perplexity").run()
    assert (progress.best, progress.best_metric) == (30.0, "perplexity")
    assert [event["best"] for event in events(tmp_path / "run", "evaluation")] == [True, True, False]


def test_patience_ends_a_run(tmp_path: Path) -> None:
    progress = _trainer(tmp_path / "run", best_metric="perplexity", patience=1).run()
    assert (progress.updates, progress.without_best) == (8, 1)
    assert events(tmp_path / "run", "end")[-1]["reason"] == "no new best in 1 evaluations"
    again = _trainer(tmp_path / "run", resume=True, best_metric="perplexity", patience=1).run()
    assert again.updates == 8  # it has ended
    assert _trainer(tmp_path / "run", resume=True, best_metric="perplexity", patience=2).run().updates == 12


class Mixture:
    """Objective that alternates between two others. The weight of the second falls to 0, and it then draws no batch."""

    languages = ("de", "en")
    metrics: Mapping[str, bool] = {}

    def __init__(self) -> None:
        self._parts = {"one": _objective(name="one"), "two": _objective(name="two")}

    def identity(self) -> dict[str, Any]:
        return {name: part.identity() for name, part in self._parts.items()}

    def check(self, model: XLMWithLMHeadModel) -> None:
        for part in self._parts.values():
            part.check(model)

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        positions = {name: position.get(name, {}) for name in self._parts}
        each = {name: part.batches(positions[name]) for name, part in self._parts.items()}
        drawn = position.get("drawn", 0)
        while True:
            iteration, number = divmod(drawn, len(self._parts))
            name = list(self._parts)[number]
            drawn += 1
            weight = 1.0 if name == "one" else {0: 1.0, 1: 0.5, 2: 0.25}.get(iteration, 0.0)
            if weight:
                batch = next(each[name])
                positions[name] = batch.position
                yield dataclasses.replace(
                    batch,
                    pieces=[(name, piece) for piece in batch.pieces],
                    position={"drawn": drawn, **positions},
                    weight=weight,
                )

    def loss(self, model: XLMWithLMHeadModel, piece: tuple[str, Any]) -> Tensor:
        name, inner = piece
        return self._parts[name].loss(model, inner)

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        raise NotImplementedError


def test_a_mixture_of_objectives_with_weights(tmp_path: Path) -> None:
    """Compare with a plain loop, and with a run that stops and resumes after every step."""
    config = small_run(Path("none"), tmp_path / "run", model=without_dropout(), max_steps=9, evaluate_every=0)
    Trainer(config, Mixture(), small_tokenizer(), ALONE).run()
    logged = events(tmp_path / "run", "update")
    assert [list(event["losses"]) for event in logged] == [["one"], ["two"]] * 3 + [["one"]] * 3
    torch.manual_seed(config.seed)
    model = XLMWithLMHeadModel(XLMWithLMHeadModel.from_pretrained(tmp_path / "run/last").config)
    optimiser = OriginalAdam(model.parameters(), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    one, two = _objective().batches({}), _objective().batches({})
    plan = [(one, 1.0), (two, 1.0), (one, 1.0), (two, 0.5), (one, 1.0), (two, 0.25), *[(one, 1.0)] * 3]
    for update, (event, (batches, weight)) in enumerate(zip(logged, plan, strict=True)):
        batch = next(batches)
        ids = torch.cat([piece[0] for piece in batch.pieces])
        optimiser.param_groups[0]["lr"] = learning_rate(
            update, schedule="inverse_sqrt", lr=5e-3, warmup_steps=4, max_steps=9
        )
        optimiser.zero_grad()
        loss = stream_loss(model, ids, batch.pieces[0][1])
        torch.autograd.backward(loss * weight)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        assert event["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)  # without the weight
        assert event["grad_norm"] == pytest.approx(float(norm), rel=1e-4)  # with it
    config = dataclasses.replace(config, output=str(tmp_path / "stopped"))
    for _ in range(9):
        progress = Trainer(config, Mixture(), small_tokenizer(), ALONE, resume=True).run(lambda: True)
    assert progress.updates == 9
    assert updates(tmp_path / "stopped") == updates(tmp_path / "run")
    assert equal(weights(tmp_path / "stopped"), weights(tmp_path / "run"))
