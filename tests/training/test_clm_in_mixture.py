"""Causal language modelling as a part of a translation run: its decoder, without a source, learns from running text.

Oracles: a run of ``clm`` alone on the same model, the decoder's own loss and ``perplexity``, and uninterrupted runs.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.small_models import requested
from tests.training.runs import (
    equal,
    events,
    small_run,
    start_from,
    train_with_cuts,
    translation_run,
    translation_weights,
    updates,
    weights,
    without_dropout,
)
from tests.training.test_objective import ALONE
from xlm.errors import ConfigError, InputError
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.scoring.perplexity import perplexity
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training import checkpoints
from xlm.training.config import CoefficientSettings, TrainConfig
from xlm.training.log import draw_report
from xlm.training.loop import train
from xlm.training.objectives.mixture import Mixture
from xlm.training.processes import Processes
from xlm.training.setup import build_model, build_objective, open_data

MIXED = ("bt:de-en-de", "clm", "ae:de", "mt:de-en")


def objective(config: TrainConfig, processes: Processes = ALONE) -> Any:
    return build_objective(config, *open_data(Path(config.data)), processes)


@pytest.fixture(scope="module")
def language_model(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a small language model, of the size that translation runs have."""
    output = tmp_path_factory.mktemp("language-model")
    model = without_dropout(max_position_embeddings=40)
    train(small_run(pairs, output, model=model, max_steps=3, evaluate_every=0))
    return output / "last"


def test_the_batches_are_those_of_a_run_of_clm_alone(pairs: Path, tmp_path: Path) -> None:
    """They come first in an iteration, one of each language."""
    config = translation_run(pairs, tmp_path, objectives=MIXED, coefficients=CoefficientSettings(clm="0.5"))
    batches = list(islice(objective(config).batches({}), 25))
    assert [batch.objective for batch in batches] == ["clm", "clm", "ae", "mt", "bt"] * 5
    mixed = [batch for batch in batches if batch.objective == "clm"]
    alone = islice(objective(small_run(pairs, tmp_path, batch_size=6)).batches({}), 10)
    for found, expected in zip(mixed, alone, strict=True):
        (((name, (ids, language)),), ((expected_ids, expected_language),)) = found.pieces, expected.pieces
        assert (name, language) == ("clm", expected_language)
        assert torch.equal(ids, expected_ids)
        assert (found.language, found.tokens, found.weight) == (expected.language, expected.tokens, 0.5)
    assert {batch.language for batch in mixed[:2]} == {"de", "en"}


def test_batches_go_on_from_any_position(pairs: Path, tmp_path: Path) -> None:
    config = translation_run(pairs, tmp_path, objectives=MIXED)
    batches = list(islice(objective(config).batches({}), 12))
    for number in (0, 1, 4, 9):
        again = next(objective(config).batches(json.loads(json.dumps(batches[number].position))))
        assert (again.objective, again.language) == (batches[number + 1].objective, batches[number + 1].language)
        assert again.position == batches[number + 1].position


def test_the_loss_is_that_of_the_decoder_as_a_language_model(pairs: Path, tmp_path: Path) -> None:
    config = translation_run(pairs, tmp_path, objectives=MIXED)
    index, tokenizer = open_data(pairs)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    mixture = Mixture(config, index, tokenizer, ALONE)
    for batch in islice(mixture.batches({}), 2):
        ((name, (ids, language)),) = batch.pieces
        found = mixture.loss(model, (name, (ids, language)))
        expected = requested(model.decoder(ids, langs=language, labels=ids).loss)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_decoder_learns_what_a_language_model_learns(
    pairs: Path, language_model: Path, tmp_path: Path, dropout: float
) -> None:
    """Bit for bit; the encoder and the attention to the source stay as they are."""
    model = start_from(language_model, dropout=dropout, attention_dropout=dropout)
    never = CoefficientSettings(ae="0:0,1000:0,1001:1")
    config = translation_run(
        pairs, tmp_path / "mixed", objectives=("clm", "ae:de"), model=model, coefficients=never, evaluate_every=0
    )
    train(config)
    train(small_run(pairs, tmp_path / "alone", model=model, batch_size=6, evaluate_every=0))
    assert updates(tmp_path / "mixed") == updates(tmp_path / "alone")
    found, expected = translation_weights(tmp_path / "mixed"), weights(tmp_path / "alone")
    before = build_model(config, open_data(pairs)[1], ["de", "en"]).state_dict()
    for name, tensor in found.items():
        half, _, inner = name.partition(".")
        is_trained = half == "decoder" and inner in expected
        assert torch.equal(tensor, expected[inner] if is_trained else before[name]), name
    assert {name.partition(".")[2] for name in found if name.startswith("decoder.")} > set(expected)


@pytest.mark.parametrize("cuts", [[2], [7, 11, 3]])
def test_a_run_that_is_cut_off_is_the_run_that_was_not(
    pairs: Path, translator: Path, tmp_path: Path, cuts: list[int]
) -> None:
    settings: dict[str, Any] = {"objectives": MIXED, "model": start_from(translator, dropout=0.1)}
    train(translation_run(pairs, tmp_path / "whole", **settings))
    train_with_cuts(translation_run(pairs, tmp_path / "cut", **settings), cuts)
    assert {name for event in events(tmp_path / "whole", "update") for name in event["losses"]} == {
        "clm",
        "ae",
        "mt",
        "bt",
    }
    assert updates(tmp_path / "cut") == updates(tmp_path / "whole")
    assert events(tmp_path / "cut", "evaluation") == events(tmp_path / "whole", "evaluation")
    for name in ("last", "best"):
        assert equal(translation_weights(tmp_path / "cut", name), translation_weights(tmp_path / "whole", name))


def test_the_perplexity_is_that_of_the_decoder(pairs: Path, translator: Path, tmp_path: Path) -> None:
    """Compare with ``perplexity`` of the raw text, after every update of the run."""
    run = tmp_path / "run"
    config = translation_run(
        pairs, run, objectives=MIXED, model=start_from(translator), best_metric="perplexity.de", max_steps=6
    )
    train(config)
    (event,) = events(run, "evaluation")
    tokenizer, model = XLMTokenizer.from_pretrained(run / "last"), XLMEncoderDecoderModel.from_pretrained(run / "last")
    texts = {name: (pairs.parent / name).read_text("utf-8").split("\n")[:-1] for name in ("de", "en")}
    for name, lines in texts.items():
        found = perplexity(model.decoder, tokenizer, {name: lines}, protocol="stream", window=8).perplexity
        assert found == pytest.approx(event["perplexity"][name], rel=1e-5)
    assert event["mean"] == pytest.approx(sum(event["perplexity"][name] for name in texts) / 2)
    assert set(event["perplexity"]) == {"de", "en", "de-en", "en-de"}
    assert next(iter(objective(config).metrics)) == "mean_bleu"
    pytest.importorskip("matplotlib.figure")
    report = draw_report(run, tmp_path / "report.png")
    assert (report["perplexity"], report["best"]) == (event["perplexity"], event["mean"])
    progress = json.loads(next((run / "checkpoints").glob("*6/state.json")).read_text("utf-8"))["state"]["progress"]
    assert progress["best"] == event["perplexity"]["de"]


def test_languages_can_be_named(pairs: Path, tmp_path: Path) -> None:
    """In a run of ``clm`` alone, too."""
    alone = TrainConfig.from_dict({**small_run(pairs, tmp_path).to_dict(), "objectives": ["clm:de"]})
    for config in (alone, translation_run(pairs, tmp_path, objectives=("ae:en", "clm:de"))):
        found = objective(config)
        assert {batch.language for batch in islice(found.batches({}), 6) if batch.objective == "clm"} == {"de"}
        assert "perplexity.de" in found.metrics
        assert "perplexity.en" not in found.metrics
    with pytest.raises(InputError, match=r"lacks a text(?s:.*)expected: fr"):
        objective(translation_run(pairs, tmp_path, objectives=("ae:de", "clm:fr")))


def test_what_does_not_fit_is_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch\.batch_size"):
        translation_run(pairs, tmp_path, objectives=MIXED, batch_size=5, gradient_accumulation_steps=2)
    four = Processes(rank=0, count=4, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="cannot share a batch evenly"):
        objective(translation_run(pairs, tmp_path, objectives=MIXED), four)
    with pytest.raises(ConfigError, match=r"batch\.seq_len: at most the model's 40 positions"):
        train(translation_run(pairs, tmp_path, objectives=MIXED, batch_size=1, seq_len=41))


def test_a_run_that_began_before_this_part_existed_goes_on(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(translation_run(pairs, run, objectives=("ae:de",), max_steps=1, evaluate_every=0))
    (file,) = (run / "checkpoints").glob("*/state.json")
    contents = json.loads(file.read_text("utf-8"))
    del contents["sha256"], contents["state"]["run"]["clm"], contents["state"]["run"]["coefficients"]["clm"]
    file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    again = translation_run(pairs, run, objectives=("ae:de",), max_steps=2, evaluate_every=0)
    assert train(again, resume=True).updates == 2
