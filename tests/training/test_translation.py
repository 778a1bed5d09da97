"""Translation objectives on a little prepared text: batches, order, resuming, evaluation and errors.

Oracles: the sentences of the text, a plain loss of each sentence alone, and runs that were not interrupted.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import (
    equal,
    events,
    small_tokenizer,
    translation_run,
    translation_weights,
    updates,
)
from tests.training.test_objective import ALONE
from xlm.data.prepare import prepare
from xlm.errors import ConfigError, InputError, LanguageError, VocabularyError
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.training.config import CoefficientSettings, ModelSettings, TrainConfig
from xlm.training.loop import Trainer, train
from xlm.training.objectives.mixture import Mixture
from xlm.training.objectives.translation import translation_loss
from xlm.training.processes import Processes
from xlm.training.setup import build_model, open_data


@pytest.fixture
def data(pairs: Path) -> Path:
    return pairs


def mixture(config: TrainConfig, processes: Processes = ALONE) -> Mixture:
    index, tokenizer = open_data(Path(config.data))
    return Mixture(config, index, tokenizer, processes)


def test_every_part_takes_its_turn(data: Path, tmp_path: Path) -> None:
    batches = list(islice(mixture(translation_run(data, tmp_path)).batches({}), 18))
    for iteration in range(3):
        each = batches[6 * iteration : 6 * iteration + 6]
        assert [batch.objective for batch in each] == ["ae", "ae", "mt", "mt", "bt", "bt"]
        for kind in ("ae", "bt"):
            assert len({batch.language for batch in each if batch.objective == kind}) == 2
    assert {batch.language for batch in batches if batch.objective == "mt"} == {"de-en", "en-de"}
    assert len({tuple(batch.language for batch in batches[6 * i : 6 * i + 6]) for i in range(3)}) > 1


def test_a_coefficient_of_zero_skips_its_part(data: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path, coefficients=CoefficientSettings(ae="0:1,2:0", bt="0.5", mt="0"))
    batches = list(islice(mixture(config).batches({}), 10))
    kinds = [batch.objective for batch in batches]
    assert kinds == ["ae", "ae", "bt", "bt", "ae", "ae", "bt", "bt", "bt", "bt"]
    assert [batch.weight for batch in batches] == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_batches_go_on_from_any_position(data: Path, tmp_path: Path) -> None:
    objective = mixture(translation_run(data, tmp_path))
    batches = list(islice(objective.batches({}), 40))
    for number in (0, 3, 5, 17, 38):
        again = next(mixture(translation_run(data, tmp_path)).batches(batches[number].position))
        assert _described(again) == _described(batches[number + 1])


def _described(batch: Any) -> Any:
    pieces = [
        [
            None if side is None else (side.ids.tolist(), side.lengths.tolist(), side.language)
            for side in (p.source, p.target)
        ]
        for _, p in batch.pieces
    ]
    return batch.objective, batch.language, batch.position, pieces


def test_a_pass_takes_every_sentence_once_but_for_empty_and_long_ones(data: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path, objectives=("bt:de-en-de",), max_length=4)
    index, tokenizer = open_data(data)
    lines = (data.parent / "de").read_text("utf-8").splitlines()
    expected = sorted(ids for line in lines if 0 < len(ids := tokenizer.encode(line, lang="de")[1:-1]) <= 4)
    found: list[list[int]] = []
    for batch in mixture(config).batches({}):
        for _, piece in batch.pieces:
            for row, length in zip(piece.target.ids.tolist(), piece.target.lengths.tolist(), strict=True):
                assert row[0] == row[length - 1] == 1
                found.append(row[1 : length - 1])
        if batch.position["parts"]["bt:de-en-de"]["pass"] == 1:
            break
    assert sorted(found) == expected
    assert index.splits["train"]["de"].empty == 1


@pytest.mark.parametrize("kind", ["ae:de", "mt:de-en"])
def test_the_loss_is_the_mean_over_the_tokens_of_the_batch(data: Path, tmp_path: Path, kind: str) -> None:
    """However the batch is divided; oracle: the loss of each sentence alone."""
    config = translation_run(data, tmp_path, objectives=(kind,))
    whole = next(mixture(config).batches({}))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    ((_, piece),) = whole.pieces
    nats = 0.0
    for row in range(len(piece.target.lengths)):
        sides = []
        for side in (piece.source, piece.target):
            length = side.lengths[row : row + 1]
            sides.append(dataclasses.replace(side, ids=side.ids[row : row + 1, : int(length)], lengths=length))
        nats += float(translation_loss(model, *sides).detach()) * int(piece.target.lengths[row] - 1)
    expected = nats / whole.tokens
    for count, pieces in ((1, 1), (1, 3), (2, 1), (4, 2)):  # the last has more parts than sentences
        divided = dataclasses.replace(
            config, batch=dataclasses.replace(config.batch, gradient_accumulation_steps=pieces)
        )
        losses = [
            float(part.loss(model, each).detach())
            for rank in range(count)
            for part in [mixture(divided, Processes(rank=rank, count=count, device=torch.device("cpu")))]
            for each in next(part.batches({})).pieces
        ]
        assert len(losses) == count * pieces
        assert sum(losses) / len(losses) == pytest.approx(expected, rel=1e-5)


def test_stopped_and_resumed_runs_are_one_run(data: Path, tmp_path: Path) -> None:
    whole = translation_run(data, tmp_path / "whole")
    train(whole)
    parts = translation_run(data, tmp_path / "parts")
    for number in (3, 5, 2, 99):
        stops = iter([False] * (number - 1) + [True])
        train(parts, resume=True, should_stop=lambda stops=stops: next(stops, False))  # type: ignore[misc]
    assert updates(tmp_path / "whole") == updates(tmp_path / "parts")
    assert equal(translation_weights(tmp_path / "whole"), translation_weights(tmp_path / "parts"))


def test_evaluation(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(translation_run(data, run, max_steps=12, evaluate_every=6))
    found = events(run, "evaluation")
    assert [event["updates"] for event in found] == [6, 12]
    for event in found:
        for name in ("bleu", "accuracy", "perplexity", "test_bleu"):
            assert set(event[name]) == {"de-en", "en-de"}
        assert event["mean_bleu"] == pytest.approx(sum(event["bleu"].values()) / 2)
        assert event["perplexity"] == event["test_perplexity"]  # the same pairs
    texts = {path.name: path.read_text("utf-8").splitlines() for path in (run / "translations").iterdir()}
    assert set(texts) == {
        f"{split}.{direction}.{name}.txt"
        for split in ("valid", "test")
        for direction in ("de-en", "en-de")
        for name in ("0000006", "0000012", "reference")
    }
    assert len(texts["valid.de-en.0000012.txt"]) == 12
    # The small vocabulary does not have every piece of the text, so compare ids' own text.
    _, tokenizer = open_data(data)
    lines = (data.parent / "pairs.en").read_text("utf-8").splitlines()
    ids = [tokenizer.encode(line, lang="en")[1:-1] for line in lines]
    expected = [tokenizer.decode(each, lang="en").replace("<unk>", "<<unk>>") for each in ids]
    assert texts["valid.de-en.reference.txt"] == expected


def test_the_encoders_head_does_not_move(data: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path / "run")
    _, tokenizer = open_data(data)
    before = build_model(config, tokenizer, ["de", "en"]).state_dict()
    train(config)
    after = translation_weights(tmp_path / "run")
    assert torch.equal(before["encoder.head.bias"], after["encoder.head.bias"])
    assert not torch.equal(before["decoder.head.bias"], after["decoder.head.bias"])


@pytest.mark.parametrize(
    "objectives",
    [
        (),
        ("ae",),
        ("ae:de-en",),
        ("bt:de-en",),
        ("bt:de-en-en",),
        ("bt:de-de-de",),
        ("mt:de-de",),
        ("ae:de", "ae:de"),
        ("clm", "ae:de"),
        ("ae:",),
    ],
)
def test_wrong_objectives_are_refused(data: Path, tmp_path: Path, objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="objectives"):
        translation_run(data, tmp_path, objectives=objectives)


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(LanguageError):
        mixture(translation_run(data, tmp_path, objectives=("ae:fr",)))
    with pytest.raises(ConfigError, match="schedule of a coefficient"):
        mixture(translation_run(data, tmp_path, coefficients=CoefficientSettings(ae="a:1")))
    config = translation_run(data, tmp_path / "run", max_length=39)
    _, tokenizer = open_data(data)
    with pytest.raises(ConfigError, match=r"batch\.max_length"):
        Trainer(config, mixture(config), tokenizer, ALONE)


def test_pairs_that_are_not_parallel_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("eins\nzwei\n", "utf-8")
    (tmp_path / "b").write_text("one\n", "utf-8")
    texts = {"valid": {"de-en.de": tmp_path / "a", "de-en.en": tmp_path / "b"}}
    with pytest.raises(InputError, match="not parallel"):
        prepare(small_tokenizer(), texts, tmp_path / "data")


def test_a_model_with_another_vocabulary_is_refused(reference: Path, data: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path, model=ModelSettings(start_from=str(reference / "unmt/encdec_plain.pth")))
    _, tokenizer = open_data(data)
    with pytest.raises(VocabularyError, match="differs from that of the data"):
        build_model(config, tokenizer, ["de", "en"])


def test_data_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "de").write_text("eins zwei\n\n", "utf-8")
    (tmp_path / "en").write_text("\n", "utf-8")
    prepare(small_tokenizer(), {"train": {"de": tmp_path / "de", "en": tmp_path / "en"}}, tmp_path / "data")
    with pytest.raises(InputError, match=r"(?i)lacks a text"):
        mixture(translation_run(tmp_path / "data", tmp_path, objectives=("mt:de-en",)))
    with pytest.raises(InputError, match=r"(?i)no sentence can be trained on"):
        mixture(translation_run(tmp_path / "data", tmp_path, objectives=("ae:en",)))
