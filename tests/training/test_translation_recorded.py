"""Translation objectives through the training loop.

Oracles: updates recorded from the original's ``EncDecTrainer``: losses, joint gradient norms, learning rates, the
model's own translations, and the final weights; scores and files of its evaluator.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tokenizer.small import MERGES
from tests.training.runs import events
from tests.training.test_objective import ALONE
from xlm.checkpoint.original import read_dictionary
from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.data.shards import Index, Shard, Source, Text, file_sha256
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest
from xlm.tokenizer.vocabulary import Vocabulary
from xlm.training.coefficients import Coefficient
from xlm.training.config import EvaluationSettings, ModelSettings, OptimiserSettings, RunSettings, TrainConfig
from xlm.training.log import flat_metrics
from xlm.training.loop import Trainer
from xlm.training.objectives import Batch
from xlm.training.objectives.translation import Piece, Side, back_translate, translation_loss
from xlm.training.processes import ModelCaller
from xlm.training.setup import build_model, build_objective


class RecordedSteps:
    """Objective with the recorded batches.

    Back-translation translates the target itself; the translations must be the recorded ones.
    """

    languages = ("de", "en")
    metrics: Mapping[str, bool] = {}

    def __init__(self, recorded: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._steps = [step for step in recorded["steps"] if not step.get("skipped")]
        self._recorded, self._tensors = recorded, tensors

    def identity(self) -> dict[str, Any]:
        return {}

    def check(self, model: XLMEncoderDecoderModel) -> None:
        assert model.config.lang2id == {"de": 0, "en": 1}

    def _side(self, step: dict[str, Any], name: str, language: str) -> Side:
        prefix = f"step{step['step']:02}.{name}"
        return Side(ids=self._tensors[f"{prefix}_ids"], lengths=self._tensors[f"{prefix}_lengths"], language=language)

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        for number in range(position.get("next", 0), len(self._steps)):
            step = self._steps[number]
            source = self._side(step, "src", step["src_lang"])
            target = self._side(step, "tgt", step["tgt_lang"])
            longest = int(target.lengths.max())
            piece = Piece(source=None if step["kind"] == "bt" else source, target=target, share=1.0, longest=longest)
            coefficient = Coefficient.parse(self._recorded[f"lambda_{step['kind']}"], where="a test")
            yield Batch(
                pieces=[(piece, source)],
                tokens=int((target.lengths - 1).sum()),
                objective=step["kind"],
                language=f"{step['src_lang']}-{step['tgt_lang']}",
                position={"next": number + 1},
                weight=coefficient.at(step["n_total_iter"]),
            )

    def loss(self, model: XLMEncoderDecoderModel, piece: tuple[Piece, Side]) -> Tensor:
        source, target = piece[0].source, piece[0].target
        if source is None:
            source = back_translate(model, target, piece[1].language)
            assert torch.equal(source.ids, piece[1].ids)
            assert torch.equal(source.lengths, piece[1].lengths)
            assert model.training
        return translation_loss(model, source, target)

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        raise AssertionError


@pytest.mark.parametrize("kind", ["mt", "ae", "bt", "mixed"])
def test_updates_of_the_original(reference: Path, tmp_path: Path, kind: str) -> None:
    """Also stopped and resumed on the way, with the moments of the optimiser."""
    recorded = json.loads((reference / f"unmt/encdec_plain.train_{kind}.json").read_text("utf-8"))
    tensors = load_file(reference / f"unmt/encdec_plain.train_{kind}.safetensors")
    steps = [step for step in recorded["steps"] if not step.get("skipped")]
    start = reference / "unmt/encdec_plain.pth"
    tokenizer = XLMTokenizer(Vocabulary.from_dictionary(read_dictionary(start).words, where=start), MERGES)
    config = TrainConfig(
        data="none",
        output=str(tmp_path / "run"),
        objectives=("ae:de", "ae:en", "bt:de-en-de", "bt:en-de-en", "mt:de-en", "mt:en-de"),
        model=ModelSettings(start_from=str(start), dropout=0.0, attention_dropout=0.0),
        optimiser=OptimiserSettings(
            lr=0.003, warmup_steps=4, eps=1e-8, weight_decay=0.0, clip_norm=recorded["clip_grad_norm"]
        ),
        run=RunSettings(max_steps=len(steps), device="cpu", log_every=1, evaluate_every=0, save_every=0),
    )
    objective = RecordedSteps(recorded, tensors)
    stops = iter([False] * 3 + [True])
    assert Trainer(config, objective, tokenizer, ALONE).run(lambda: next(stops)).updates == 4
    assert Trainer(config, objective, tokenizer, ALONE, resume=True).run().updates == len(steps)
    logged = events(tmp_path / "run", "update")
    assert [event["lr"] for event in logged] == pytest.approx([step["lr"] for step in steps], rel=1e-12)
    assert [event["loss"] for event in logged] == pytest.approx([step["loss"] for step in steps], rel=1e-4)
    norms = [step["grad_norm_total_as_clipped_on"] for step in steps]
    assert [event["grad_norm"] for event in logged] == pytest.approx(norms, rel=1e-4)
    state = XLMEncoderDecoderModel.from_pretrained(tmp_path / "run/last").state_dict()
    for name, weight in state.items():
        half, _, ours = name.partition(".")
        theirs = ORIGINAL.theirs(ours)
        if not theirs.endswith("k_lin.bias"):  # its gradient is rounding noise, which Adam magnifies
            expected = tensors[f"final.{half}.{theirs}"]
            assert float((weight - expected).norm() / expected.norm()) < 1e-4, name


def _prepare(reference: Path, directory: Path) -> tuple[Index, XLMTokenizer]:
    """Write the ids of the recorded held-out pairs, whose text is split into pieces, to a directory of data."""
    start = reference / "unmt/encdec_plain.pth"
    words = read_dictionary(start).words
    languages = {"de": 0, "en": 1}
    tokenizer = XLMTokenizer(Vocabulary.from_dictionary(words, where=start), MERGES, lang2id=languages)
    directory.mkdir()
    ids = {word: number for number, word in enumerate(words)}
    index = Index(signature=tokenizer_digest(tokenizer), vocab_size=len(words), dtype="uint16")
    for split in ("train", "valid", "test"):
        for language in languages:
            path = reference / f"unmt/evaluation/{'valid' if split == 'train' else split}.bpe.{language}"
            lines = path.read_text("utf-8").splitlines()
            flat = [number for line in lines for number in (*(ids.get(word, 3) for word in line.split()), 1)]
            file = directory / f"{split}.{language}.bin"
            file.write_bytes(np.array(flat, "<u2").tobytes())
            shard = Shard(
                file=file.name, lines=len(lines), tokens=len(flat), unknown=flat.count(3), sha256=file_sha256(file)
            )
            source = Source(path=str(path), bytes=path.stat().st_size, modified=0)
            index = index.with_text(split, f"de-en.{language}", Text(source=source, complete=True, shards=(shard,)))
    return index, tokenizer


def test_scores_and_files_of_the_original(reference: Path, tmp_path: Path) -> None:
    index, tokenizer = _prepare(reference, tmp_path / "data")
    config = TrainConfig(
        data=str(tmp_path / "data"),
        output=str(tmp_path / "run"),
        objectives=("mt:de-en", "mt:en-de"),
        model=ModelSettings(start_from=str(reference / "unmt/encdec_plain.pth")),
        evaluation=EvaluationSettings(batch_size=24, bleu="tokenized"),
    )
    objective = build_objective(config, index, tokenizer, ALONE)
    model = build_model(config, tokenizer, objective.languages)
    objective.check(model)
    found = flat_metrics(objective.validate(ModelCaller(model).train(), updates=0))
    assert model.training
    recorded = json.loads((reference / "unmt/encdec_plain.evaluation.json").read_text("utf-8"))["scores"]
    for split, prefix in (("valid", ""), ("test", "test_")):
        for direction in ("de-en", "en-de"):
            for ours, theirs, tolerance in (
                ("bleu", "bleu", 0.006),
                ("accuracy", "acc", 1e-9),
                ("perplexity", "ppl", 1e-3),
            ):
                expected = recorded[f"{split}_{direction}_mt_{theirs}"]
                assert found[f"{prefix}{ours}.{direction}"] == pytest.approx(expected, abs=tolerance)
            for name, theirs in (("0000000", "hyp3"), ("reference", "ref")):
                lines = (tmp_path / f"run/translations/{split}.{direction}.{name}.txt").read_text("utf-8")
                path = reference / f"unmt/evaluation/{theirs}.{direction}.{split}.txt"
                # The original writes them in the order of their length.
                assert sorted(lines.splitlines()) == sorted(path.read_text("utf-8").splitlines())
