"""Translation objectives on a little prepared text: batches, order, resuming, evaluation and errors.

Oracles: the sentences of the text, a plain loss of each sentence alone, and runs that were not interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.runs import (
    equal,
    events,
    prepare_pairs,
    small_run,
    small_tokenizer,
    start_from,
    translation_run,
    translation_weights,
    updates,
    without_dropout,
)
from tests.training.test_objective import ALONE
from xlm.data.prepare import prepare
from xlm.data.shards import file_sha256
from xlm.errors import (
    ConfigError,
    DependencyError,
    InputError,
    LanguageError,
    NonFiniteError,
    VocabularyError,
    WriteError,
)
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.training.config import CoefficientSettings, EvaluationSettings, ModelSettings, TrainConfig
from xlm.training.log import flat_metrics, results_of
from xlm.training.loop import Trainer, train
from xlm.training.objectives import translation
from xlm.training.objectives.mixture import Mixture
from xlm.training.objectives.translation import Side, back_translate, translation_loss
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


def test_back_translation_does_not_depend_on_how_a_batch_is_divided(
    data: Path, translator: Path, tmp_path: Path
) -> None:
    """Its limit comes from the longest sentence of the whole batch; the model here never ends a translation itself."""
    config = translation_run(
        data, tmp_path, objectives=("bt:de-en-de",), batch_size=24, group_by_size=False, model=start_from(translator)
    )
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    with torch.no_grad():
        model.decoder.head.get_parameter("bias")[model.config.eos_token_id] = -100.0
    losses = []
    for pieces in (1, 4):
        divided = dataclasses.replace(
            config, batch=dataclasses.replace(config.batch, gradient_accumulation_steps=pieces)
        )
        objective = mixture(divided)
        batch = next(objective.batches({}))
        assert len({int(piece.target.lengths.max()) for _, piece in batch.pieces}) == pieces
        losses.append(sum(float(objective.loss(model, piece).detach()) for piece in batch.pieces) / pieces)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_back_translation_fits_into_the_positions(data: Path, translator: Path, tmp_path: Path) -> None:
    """A model that never ends a translation may get sentences as long as its positions allow."""
    config = translation_run(data, tmp_path, model=start_from(translator))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    with torch.no_grad():
        model.decoder.head.get_parameter("bias")[model.config.eos_token_id] = -100.0
    positions = model.config.max_position_embeddings
    ids = torch.full((2, positions), 20)
    ids[:, 0] = ids[:, -1] = model.config.eos_token_id
    sentences = Side(ids=ids, lengths=torch.full((2,), positions), language="de")
    translations = back_translate(model, sentences, "en")
    assert translations.ids.shape == (2, positions)
    assert translations.lengths.tolist() == [positions] * 2
    assert float(translation_loss(model, translations, sentences).detach()) > 0


def test_an_empty_back_translation_can_be_read(data: Path, translator: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path, objectives=("bt:de-en-de",), model=start_from(translator))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    with torch.no_grad():
        model.decoder.head.get_parameter("bias")[model.config.eos_token_id] = 100.0
    objective = mixture(config)
    ((_, piece),) = next(objective.batches({})).pieces
    translations = back_translate(model, piece.target, "en")
    assert translations.ids.tolist() == [[1, 1]] * len(piece.target.ids)
    assert translations.lengths.tolist() == [2] * len(piece.target.ids)
    assert float(objective.loss(model, ("bt:de-en-de", piece)).detach()) > 0


def test_low_precision_leaves_no_weight_without_gradient(data: Path, translator: Path, tmp_path: Path) -> None:
    """Oracle: the gradient for translations made before, outside of autocast."""
    config = translation_run(data, tmp_path, objectives=("bt:de-en-de",), model=start_from(translator))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    objective = mixture(config)
    ((name, piece),) = next(objective.batches({})).pieces
    with torch.autocast("cpu", dtype=torch.bfloat16):
        source = back_translate(model, piece.target, "en")
    gradients = []
    for translates in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if translates:
                loss = objective.loss(model, (name, piece))
            else:
                loss = translation_loss(model, source, piece.target) * piece.share
            torch.autograd.backward(loss)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert gradients[0].keys() == dict(model.named_parameters()).keys() - frozen
    assert equal(gradients[0], gradients[1])


@pytest.mark.parametrize("what", ["gradient", "scores"])
def test_steps_that_are_not_finite_are_skipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The loss of some steps, or the scores when the model translates for back-translation."""
    name = "translation_loss" if what == "gradient" else "back_translate"
    genuine, calls = getattr(translation, name), 0

    def sometimes(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 3) and what == "scores":
            raise NonFiniteError("the model's scores of the next token are not finite")
        return genuine(*arguments, **options) * math.nan if calls in (2, 3) else genuine(*arguments, **options)

    monkeypatch.setattr(translation, name, sometimes)
    run = tmp_path / "run"
    progress = train(translation_run(data, run, objectives=("bt:de-en-de", "bt:en-de-en")))
    assert (progress.updates, progress.step, progress.skipped) == (12, 14, 2)
    assert [event["in_a_row"] for event in events(run, "skipped")] == [1, 2]
    assert all(bool(tensor.isfinite().all()) for tensor in translation_weights(run).values())


def test_scores_that_are_not_finite_raise_the_error_that_is_skipped(data: Path, tmp_path: Path) -> None:
    config = translation_run(data, tmp_path, objectives=("bt:de-en-de",))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    assert isinstance(model, XLMEncoderDecoderModel)
    with torch.no_grad():
        model.decoder.head.get_parameter("bias")[20] = math.nan
    objective = mixture(config)
    (piece,) = next(objective.batches({})).pieces
    with pytest.raises(NonFiniteError):
        back_translate(model, piece[1].target, "en")
    loss = objective.loss(model, piece)
    torch.autograd.backward(loss)
    assert not math.isfinite(float(loss.detach()))


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
    assert "|tok:none|" in texts.pop("signature.txt")[0]
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


def test_evaluation_with_a_beam_and_text(data: Path, translator: Path, tmp_path: Path) -> None:
    evaluation = EvaluationSettings(num_beams=3, batch_size=5)
    config = translation_run(data, tmp_path / "run", model=start_from(translator), evaluation=evaluation, max_steps=1)
    train(config)
    (event,) = events(tmp_path / "run", "evaluation")
    assert event["mean_bleu"] > 50


@pytest.mark.parametrize(("bleu", "mark"), [("text", "\N{REPLACEMENT CHARACTER}"), ("tokenized", "<<unk>>")])
def test_an_unknown_word_of_a_reference_matches_nothing(tmp_path: Path, bleu: str, mark: str) -> None:
    for name in ("de", "en"):
        (tmp_path / name).write_text("the dog \N{SNOWMAN} the dog\n" * 8, "utf-8")
    texts = {f"de-en.{name}": tmp_path / name for name in ("de", "en")}
    prepare(small_tokenizer(), {"train": texts, "valid": texts}, tmp_path / "data")
    run = tmp_path / "run"
    train(
        translation_run(
            tmp_path / "data",
            run,
            objectives=("mt:de-en",),
            evaluation=EvaluationSettings(bleu=bleu),
            max_steps=150,
            evaluate_every=150,
            lr=2e-2,
        )
    )
    (event,) = events(run, "evaluation")
    assert (run / "translations/valid.de-en.reference.txt").read_text("utf-8") == f"the dog {mark} the dog\n" * 8
    assert (run / "translations/valid.de-en.0000150.txt").read_text("utf-8") == "the dog <unk> the dog\n" * 8
    assert event["accuracy"] == {"de-en": 100.0}
    assert event["mean_bleu"] < 60


@pytest.mark.parametrize("metric", ["mean_bleu", "bleu.de-en", "perplexity.en-de", "test_accuracy.de-en"])
def test_any_metric_may_decide_which_model_is_the_best(
    data: Path, translator: Path, tmp_path: Path, metric: str
) -> None:
    run = tmp_path / "run"
    settings: dict[str, Any] = {"max_steps": 20, "evaluate_every": 1, "lr": 1e-9, "save_every": 0}
    progress = train(
        translation_run(data, run, model=start_from(translator), best_metric=metric, patience=3, **settings)
    )
    values = [flat_metrics(results_of(event))[metric] for event in events(run, "evaluation")]
    best = min(values) if "perplexity" in metric else max(values)
    assert progress.best == best
    assert [event["best"] for event in events(run, "evaluation")][values.index(best)]
    assert progress.updates == 20 or progress.without_best == 3


def test_pairs_that_are_too_long_for_the_model(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, which a warning says once; if none is left, that is an error."""
    _, tokenizer = open_data(data)
    lines = [(data.parent / f"pairs.{name}").read_text("utf-8").splitlines() for name in ("de", "en")]
    lengths = [
        max(len(tokenizer.encode(line, lang=name)) for line, name in zip(pair, ("de", "en"), strict=True))
        for pair in zip(*lines, strict=True)
    ]
    positions = sorted(lengths)[5]
    kept = sum(length <= positions for length in lengths)
    assert kept < len(lengths)
    model = dataclasses.replace(without_dropout(), max_position_embeddings=positions)
    with caplog.at_level(logging.WARNING, "xlm"):
        train(translation_run(data, tmp_path / "run", model=model, max_length=positions - 2, max_steps=1))
    messages = [record.getMessage() for record in caplog.records if "are not evaluated" in record.getMessage()]
    assert messages == [
        f"{12 - kept} of 12 pairs of {split} de-en.de are not evaluated: they are longer than {positions - 2} tokens"
        for split in ("valid", "test")
    ]
    translated = (tmp_path / "run/translations/valid.de-en.0000001.txt").read_text("utf-8")
    assert translated.count("\n") == kept
    model = dataclasses.replace(without_dropout(), max_position_embeddings=min(lengths) - 1)
    config = translation_run(
        data, tmp_path / "none", objectives=("mt:de-en",), model=model, max_length=min(lengths) - 3
    )
    with pytest.raises(InputError, match=r"(?i)(no pair can be evaluated|there are no sentences to train on)"):
        train(config)


def test_without_valid_pairs_nothing_is_evaluated(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even test pairs: they would decide which model is the best."""
    texts = {name: data.parent / name for name in ("de", "en")}
    sides = {f"de-en.{name}": data.parent / f"pairs.{name}" for name in ("de", "en")}
    prepare(small_tokenizer(), {"train": texts, "test": sides}, tmp_path / "data")
    objectives = ("bt:de-en-de", "ae:de")
    config = translation_run(tmp_path / "data", tmp_path / "run", objectives=objectives)
    with caplog.at_level(logging.WARNING, "xlm"):
        assert train(config).updates == 12
    assert "en-de is not evaluated: the data has no valid pairs of it" in caplog.text
    assert not events(tmp_path / "run", "evaluation")
    assert not (tmp_path / "run/best").exists()
    changes: dict[str, Any]
    for changes in ({"best_metric": "mean_bleu"}, {"patience": 1}):
        with pytest.raises(ConfigError, match=rf"run\.{next(iter(changes))}(?s:.*)the run evaluates nothing"):
            train(dataclasses.replace(config, run=dataclasses.replace(config.run, **changes)), resume=True)


def test_pairs_are_nothing_to_a_language_model(tmp_path: Path) -> None:
    """Neither does it evaluate on them, nor do pairs that are prepared later prevent it from resuming."""
    prepare_pairs(tmp_path)
    mono = {language: tmp_path / language for language in ("de", "en")}
    pairs = {f"de-en.{language}": tmp_path / f"pairs.{language}" for language in ("de", "en")}
    prepare(small_tokenizer(), {"train": mono, "valid": mono}, tmp_path / "mono")
    config = small_run(tmp_path / "mono", tmp_path / "run", max_steps=2, evaluate_every=1)
    train(config)
    prepare(small_tokenizer(), {"train": pairs, "valid": pairs}, tmp_path / "mono")
    train(dataclasses.replace(config, run=dataclasses.replace(config.run, max_steps=3)), resume=True)
    assert len(events(tmp_path / "run", "evaluation")) == 3
    prepare(small_tokenizer(), {"train": mono, "valid": pairs}, tmp_path / "other")
    train(small_run(tmp_path / "other", tmp_path / "second", max_steps=2, evaluate_every=1))
    assert not events(tmp_path / "second", "evaluation")


def test_a_run_without_sacrebleu_ends_before_its_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(DependencyError, match="BLEU needs sacrebleu"):
        mixture(translation_run(data, tmp_path))
    mixture(translation_run(data, tmp_path, evaluate_every=0))


def test_a_full_disk_does_not_end_a_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise WriteError("the file could not be written", where=path, found="No space left on device")

    monkeypatch.setattr("xlm.training.objectives.evaluation.write_text", full)
    with caplog.at_level(logging.WARNING, "xlm"):
        assert train(translation_run(data, tmp_path / "run", max_steps=2)).updates == 2
    assert "translations could not be saved; the run continues" in caplog.text
    assert len(events(tmp_path / "run", "evaluation")) == 1


def test_a_model_without_language_embeddings(data: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(without_dropout(40), use_lang_emb=False, share_inout_emb=False)
    for sinusoidal in (False, True):
        run = tmp_path / str(sinusoidal)
        train(translation_run(data, run, model=dataclasses.replace(model, sinusoidal_embeddings=sinusoidal)))
        names = translation_weights(run).keys()
        assert not any("language" in name for name in names)


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
        ("clm", "clm:de", "ae:de"),
        ("clm:de", "clm:de"),
        ("clm:de-en",),
        ("clm:",),
        ("ae:",),
    ],
)
def test_wrong_objectives_are_refused(data: Path, tmp_path: Path, objectives: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="objectives"):
        translation_run(data, tmp_path, objectives=objectives)


@pytest.mark.parametrize(
    ("objectives", "coefficients"),
    [(("ae:de",), {"ae": "0"}), (("ae:de", "bt:de-en-de"), {"ae": "0:1,5:0", "bt": "0"})],
)
def test_coefficients_that_end_at_zero_are_refused(
    data: Path, tmp_path: Path, objectives: tuple[str, ...], coefficients: dict[str, str]
) -> None:
    """The run would look for something to train for ever."""
    config = translation_run(data, tmp_path, objectives=objectives, coefficients=CoefficientSettings(**coefficients))
    with pytest.raises(ConfigError, match="end at 0"):
        mixture(config)


def test_languages_and_special_tokens_that_the_model_does_not_have(
    data: Path, translator: Path, tmp_path: Path
) -> None:
    config = translation_run(data, tmp_path, model=start_from(translator))
    _, tokenizer = open_data(data)
    model = build_model(config, tokenizer, ["de", "en"])
    for changes, message in (
        ({"lang2id": {"de": 0, "fr": 1}}, "a language of the model: de, fr"),
        ({"eos_token_id": 0, "bos_token_id": 1}, "eos_token_id: 1, as in the tokenizer"),
    ):
        other = XLMEncoderDecoderModel(model.config.replace(**changes))
        with pytest.raises(ConfigError, match=message):
            mixture(config).check(other)
    # Ids of languages are those of the model.
    swapped = XLMEncoderDecoderModel(model.config.replace(lang2id={"de": 1, "en": 0}))
    mixture(config).check(swapped)
    side = Side(ids=torch.tensor([[1, 20, 1]]), lengths=torch.tensor([3]), language="de")
    langs = side.inputs(swapped.config).langs
    assert langs is not None
    assert langs.tolist() == [[1]]


def test_sentence_ends_inside_a_line_of_pairs_are_refused(data: Path, tmp_path: Path) -> None:
    """Later sentences would be paired with the wrong translations."""
    shutil.copytree(data, tmp_path / "data")
    index, _ = open_data(tmp_path / "data")
    for language in ("de", "en"):
        text = index.splits["train"][f"de-en.{language}"]
        (shard,) = text.shards
        ids = np.fromfile(tmp_path / "data" / shard.file, "<u2")
        ids[2 if language == "de" else 5] = 1
        ids.tofile(tmp_path / "data" / shard.file)
        shards = (dataclasses.replace(shard, sha256=file_sha256(tmp_path / "data" / shard.file)),)
        index = index.with_text("train", f"de-en.{language}", dataclasses.replace(text, shards=shards))
    index.write(tmp_path / "data")
    with pytest.raises(InputError, match="do not match line by line"):
        mixture(translation_run(tmp_path / "data", tmp_path / "run"))


def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(LanguageError, match=f"where: objectives, with the tokenizer of {data}"):
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
    with pytest.raises(VocabularyError, match=r"differs from that of the data(.|\n)*found: \d+ tokens"):
        build_model(config, tokenizer, ["de", "en"])


def test_a_model_with_as_many_other_tokens_is_refused(data: Path, tmp_path: Path) -> None:
    _, tokenizer = open_data(data)
    config = XLMConfig(vocab_size=tokenizer.vocab_size, emb_dim=8, n_layers=1, n_heads=2, n_langs=2)
    XLMWithLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    (one, number), (other, next_number) = list(ids.items())[-2:]
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, one: next_number, other: number}), "utf-8")
    run = translation_run(data, tmp_path / "run", model=ModelSettings(start_from=str(tmp_path)))
    with pytest.raises(VocabularyError) as caught:
        build_model(run, tokenizer, ["de", "en"])
    assert (caught.value.found, caught.value.expected) == (f"id {number} is {other!r}", f"{one!r}, as in {data}")


def test_data_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "de").write_text("eins zwei\n\n", "utf-8")
    (tmp_path / "en").write_text("\n", "utf-8")
    prepare(small_tokenizer(), {"train": {"de": tmp_path / "de", "en": tmp_path / "en"}}, tmp_path / "data")
    with pytest.raises(InputError, match=r"(?i)lacks a text"):
        mixture(translation_run(tmp_path / "data", tmp_path, objectives=("mt:de-en",)))
    with pytest.raises(InputError, match=r"(?i)there are no sentences to train on"):
        mixture(translation_run(tmp_path / "data", tmp_path, objectives=("ae:en",)))
