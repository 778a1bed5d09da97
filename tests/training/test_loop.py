"""Training runs: what they learn, what they write, and which settings do not change the result.

Oracle: a plain loop over the same batches with the model's own loss; one run against another.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.small_models import requested, small_model
from tests.training.runs import equal, events, small_run, small_tokenizer, updates, weights, without_dropout
from xlm.checkpoint import resolve
from xlm.data.batches import Order, Position, batches, open_streams
from xlm.data.prepare import prepare
from xlm.data.shards import Index
from xlm.errors import ConfigError, InputError, TrainingError, VocabularyError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.config import ModelSettings, RunSettings
from xlm.training.loop import train
from xlm.training.objectives.clm import stream_loss
from xlm.training.optimiser import OriginalAdam, learning_rate
from xlm.training.processes import ModelCaller, Processes, wrap_model
from xlm.training.setup import build_model

NO_DROPOUT = {"model": without_dropout()}


def test_a_plain_loop(data: Path, tmp_path: Path) -> None:
    config = small_run(data, tmp_path / "run", **NO_DROPOUT)
    train(config)
    torch.manual_seed(config.seed)
    begun = XLMWithLMHeadModel.from_pretrained(tmp_path / "run/last")
    model = XLMWithLMHeadModel(begun.config)
    optimiser = OriginalAdam(model.parameters(), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    streams = open_streams(data, Index.read(data), "train", batch_size=4, seq_len=8)
    order = Order(windows={language: len(stream) for language, stream in streams.items()}, seed=config.seed)
    losses = []
    for update, batch in zip(range(12), batches(streams, order, Position()), strict=False):
        ids = torch.from_numpy(batch.input_ids)
        optimiser.param_groups[0]["lr"] = learning_rate(
            update, schedule="inverse_sqrt", lr=5e-3, warmup_steps=4, max_steps=12
        )
        optimiser.zero_grad()
        loss = requested(model(ids, langs=batch.language, lengths=torch.full((4,), 8), labels=ids).loss)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    # float32, and another order of the sums of the loss.
    assert [loss for _, loss, _ in updates(tmp_path / "run")] == pytest.approx(losses, rel=1e-5)
    for name, tensor in weights(tmp_path / "run").items():
        if not name.endswith("key.bias"):  # their gradient is rounding noise, see test_optimiser
            torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_what_a_run_leaves(data: Path, whole_run: Path) -> None:
    assert [number for number, _, _ in updates(whole_run)] == list(range(1, 13))
    found = events(whole_run, "evaluation")
    assert [event["updates"] for event in found] == [6, 12]
    assert found[-1]["mean"] == pytest.approx(sum(found[-1]["perplexity"].values()) / 2)
    assert set(found[-1]["perplexity"]) == {"de", "en"}
    assert found[-1]["best"]
    assert equal(weights(whole_run, "best"), weights(whole_run, "last"))
    names = sorted(path.name for path in (whole_run / "checkpoints").iterdir())
    assert names == ["step-000000006", "step-000000009", "step-000000012"]  # three are kept
    assert equal(weights(whole_run / "checkpoints", "step-000000012"), weights(whole_run))
    assert not list(whole_run.rglob(".*.tmp"))
    # Every other command takes it.
    model = XLMWithLMHeadModel.from_pretrained(whole_run / "best")
    (result,) = score(model, XLMTokenizer.from_pretrained(whole_run / "best"), ["The little dog"], lang="en")
    assert len(result.tokens) > 3


def test_it_learns(data: Path, tmp_path: Path) -> None:
    train(
        small_run(
            data,
            tmp_path / "run",
            max_steps=250,
            lr=1e-2,
            warmup_steps=40,
            log_every=10,
            evaluate_every=125,
            save_every=125,
        )
    )
    losses = [loss for _, loss, _ in updates(tmp_path / "run")]
    assert losses[0] > 4  # there are 170 words
    assert losses[-1] < 2.5
    assert events(tmp_path / "run", "evaluation")[-1]["mean"] < 12


@pytest.mark.parametrize(
    "changes",
    [{"gradient_accumulation_steps": 4}, {"gradient_accumulation_steps": 2, "activation_checkpointing": True}],
)
def test_pieces_change_nothing(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    train(small_run(data, tmp_path / "one", **NO_DROPOUT))
    train(small_run(data, tmp_path / "pieces", **NO_DROPOUT, **changes))
    for one, other in zip(updates(tmp_path / "one"), updates(tmp_path / "pieces"), strict=True):
        assert other == pytest.approx(one, rel=1e-5)


def test_activation_checkpointing_changes_not_one_bit(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """The recomputed layers draw the same dropout again."""
    train(small_run(data, tmp_path / "run", activation_checkpointing=True))
    assert updates(tmp_path / "run") == updates(whole_run)
    assert equal(weights(tmp_path / "run"), weights(whole_run))


@pytest.mark.slow
def test_compiled_layers_change_nothing(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch._inductor")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler here")
    train(small_run(data, tmp_path / "one", **NO_DROPOUT))
    train(small_run(data, tmp_path / "compiled", compile=True, **NO_DROPOUT))
    for one, other in zip(updates(tmp_path / "one"), updates(tmp_path / "compiled"), strict=True):
        assert other == pytest.approx(one, rel=1e-5)


def test_dropout_is_at_work(data: Path, whole_run: Path, tmp_path: Path) -> None:
    train(small_run(data, tmp_path / "run", **NO_DROPOUT))
    assert updates(tmp_path / "run") != updates(whole_run)
    train(small_run(data, tmp_path / "other", seed=1))
    assert updates(tmp_path / "other") != updates(whole_run)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision(data: Path, tmp_path: Path, precision: str) -> None:
    train(small_run(data, tmp_path / "full", **NO_DROPOUT))
    train(small_run(data, tmp_path / "low", precision=precision, **NO_DROPOUT))
    full, low = updates(tmp_path / "full"), updates(tmp_path / "low")
    assert [number for number, _, _ in low] == [number for number, _, _ in full]
    # bfloat16 keeps 8 bits; twelve updates let that grow a little.
    assert [loss for _, loss, _ in low] == pytest.approx([loss for _, loss, _ in full], rel=2e-2)
    assert low != full
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "low").values())


def test_training_on(data: Path, whole_run: Path, tmp_path: Path) -> None:
    start = str(whole_run / "last")
    model = ModelSettings(start_from=start, dropout=0.2)
    train(small_run(data, tmp_path / "run", model=model, max_steps=1))
    first = updates(tmp_path / "run")[0][1]
    assert first < updates(whole_run)[0][1] - 0.3  # it begins where the other ended
    assert XLMWithLMHeadModel.from_pretrained(tmp_path / "run/last").config.dropout == 0.2


def test_training_on_from_a_checkpoint_of_the_original(demo_files: Path, tmp_path: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    (tmp_path / "text").write_text("A dog runs in the park .\n" * 40, "utf-8")
    prepare(tokenizer, {"train": {"en": tmp_path / "text"}}, tmp_path / "data")
    model = ModelSettings(start_from=str(demo_files / "demo.pth"))
    train(small_run(tmp_path / "data", tmp_path / "run", model=model, max_steps=2))
    original = XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth").state_dict()
    for name, tensor in weights(tmp_path / "run").items():
        # Two updates, of which the first has a learning rate of 1e-7, change little.
        torch.testing.assert_close(tensor, original[name], rtol=0, atol=5e-3)


def test_steps_without_a_finite_gradient(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, calls = stream_loss, 0

    def sometimes(model: XLMWithLMHeadModel, input_ids: torch.Tensor, language: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = genuine(model, input_ids, language)
        return loss * float("nan") if calls in (3, 5, 6) else loss

    monkeypatch.setattr("xlm.training.objectives.clm.stream_loss", sometimes)
    progress = train(small_run(data, tmp_path / "run", max_bad_steps=3))
    assert (progress.updates, progress.step, progress.skipped) == (12, 15, 3)
    assert [event["in_a_row"] for event in events(tmp_path / "run", "skipped")] == [1, 1, 2]
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())


def test_too_many_of_them_end_the_run_with_its_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = stream_loss, 0

    def soon_never(model: XLMWithLMHeadModel, input_ids: torch.Tensor, language: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return genuine(model, input_ids, language) * (1.0 if calls <= 4 else float("inf"))

    monkeypatch.setattr("xlm.training.objectives.clm.stream_loss", soon_never)
    with pytest.raises(TrainingError, match="3 steps in a row"):
        train(small_run(data, tmp_path / "run", max_bad_steps=3))
    monkeypatch.setattr("xlm.training.objectives.clm.stream_loss", genuine)
    train(small_run(data, tmp_path / "four", max_steps=4))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "four"))
    with pytest.raises(InputError, match="holds another run"):
        train(small_run(data, tmp_path / "run"))
    assert train(small_run(data, tmp_path / "run"), resume=True).updates == 12


def test_one_state_at_the_end_and_an_output_with_models_only(data: Path, tmp_path: Path) -> None:
    config = small_run(data, tmp_path / "run", max_steps=4, save_every=0, evaluate_every=2)
    train(config)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000000004"]
    shutil.rmtree(tmp_path / "run/checkpoints")
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match="holds another run"):
        train(config)
    assert equal(weights(tmp_path / "run"), before)


def test_an_adaptive_softmax_is_not_sharded() -> None:
    caller = ModelCaller(small_model(asm=True, asm_cutoffs=(20, 40)))
    several = Processes(rank=0, count=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="adaptive softmax"):
        wrap_model(caller, RunSettings(sharding="full"), several)


def test_settings_that_do_not_fit(data: Path, whole_run: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            train(small_run(changes.pop("from_data", data), tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()

    refused(InputError, "smaller than one batch", batch_size=4000)
    refused(ConfigError, "at most the model's 16 positions", seq_len=17)
    refused(InputError, "no prepared shards", from_data=tmp_path)
    english = tmp_path / "fr"
    english.write_text("Le chien\n" * 50, "utf-8")
    other = XLMTokenizer(small_tokenizer().vocabulary, small_tokenizer().merges, preset="original", lang2id={"fr": 0})
    prepare(other, {"train": {"fr": english}}, tmp_path / "french")
    start = ModelSettings(start_from=str(whole_run / "last"))
    refused(ConfigError, "a language of the model: de, en", from_data=tmp_path / "french", model=start)
    merges = tmp_path / "french/tokenizer/merges.txt"
    merges.write_text("".join(merges.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")
    refused(InputError, "not the one that made them", from_data=tmp_path / "french")


def test_another_vocabulary(demo_files: Path, data: Path, tmp_path: Path) -> None:
    start = ModelSettings(start_from=str(demo_files / "demo.pth"))
    with pytest.raises(VocabularyError, match="vocabulary of the model differs"):
        train(small_run(data, tmp_path / "run", model=start))


def test_another_vocabulary_of_a_model_found_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vocabulary has the right size and other tokens."""
    words = list(small_tokenizer().vocabulary.tokens)
    other = XLMTokenizer(Vocabulary(tokens=(*words[:-2], words[-1], words[-2])), small_tokenizer().merges)
    model = small_model(vocab_size=len(words), lang2id={"de": 0, "en": 1})
    model.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(resolve, "bundled_models", lambda: {"known": tmp_path / "other"})
    config = small_run(data, tmp_path / "run", model=ModelSettings(start_from="known"))
    with pytest.raises(VocabularyError, match="vocabulary of the model differs"):
        build_model(config, small_tokenizer(), ["de", "en"])
    model.save_pretrained(tmp_path / "same")
    small_tokenizer().save_pretrained(tmp_path / "same")
    monkeypatch.setattr(resolve, "bundled_models", lambda: {"known": tmp_path / "same"})
    assert build_model(config, small_tokenizer(), ["de", "en"]).config.vocab_size == len(words)


def test_the_caller_s_random_numbers_are_left_alone(data: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(small_run(data, tmp_path / "run", max_steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_sums_over_processes_need_no_group() -> None:
    assert Processes(rank=0, count=1, device=torch.device("cpu")).sums([1.5]) == [1.5]
