"""The run: steps, evaluations, checkpoints, and where it ends."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from xlm._atomic import make_directory
from xlm.data.batches import batches
from xlm.data.order import Order
from xlm.data.shards import Index
from xlm.errors import ConfigError, InputError, TrainingError, WriteError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.checkpoints import (
    clean_up,
    has_checkpoints,
    load_optimiser,
    moments_of,
    newest_checkpoint,
    save_checkpoint,
)
from xlm.training.config import TrainConfig
from xlm.training.evaluate import stream_perplexities
from xlm.training.log import Event, LogFile, Observer, TensorBoard
from xlm.training.optimiser import OriginalAdam
from xlm.training.processes import Processes, joined
from xlm.training.progress import Meter, Progress
from xlm.training.setup import LossModule, build_model, distributed, open_data, with_weights_of
from xlm.training.sharding import local, whole_model
from xlm.training.step import Stepper, StepResult

BEST_DIRECTORY, LAST_DIRECTORY = "best", "last"
_LOG = logging.getLogger("xlm")


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Trains a model, and leaves it in the output directory as ``last`` and, if it was evaluated, ``best``.

    Args:
        config: All settings.
        resume: Whether to go on from the newest checkpoint in the output directory that is whole; where there is none,
            the run begins.
        observers: Told each event, in the first process; see ``xlm.training.log``.
        should_stop: Asked after each step; when it says so in any process, the state is saved and the run ends.

    Returns:
        How far the run came.

    Raises:
        ConfigError: Settings that do not fit each other or the run that is resumed.
        InputError: Data that cannot be trained on, or an output directory that holds another run.
        CheckpointError: No checkpoint is whole.
        TrainingError: Too many steps in a row without a finite gradient; the state was saved.
        WriteError: The last state could not be saved.
    """
    # Steps seed the CPU's generator; whoever calls this finds it as it was.
    with joined(config.run.device, timeout=config.run.timeout) as processes, torch.random.fork_rng(devices=[]):
        return _Run(config, processes, resume=resume, observers=observers).go(should_stop)


class _Run:
    """A run in one of its processes."""

    def __init__(
        self, config: TrainConfig, processes: Processes, *, resume: bool, observers: Sequence[Observer]
    ) -> None:
        pieces = processes.count * config.batch.accumulation
        if config.batch.rows % pieces:
            raise ConfigError(
                "the rows of a batch cannot be shared out",
                where="batch.rows",
                found=config.batch.rows,
                expected=f"a multiple of {processes.count} processes * batch.accumulation = {pieces}",
            )
        self.config, self.processes, self.output = config, processes, Path(config.output)
        models = any((self.output / name).exists() for name in (BEST_DIRECTORY, LAST_DIRECTORY))
        if not resume and (models or has_checkpoints(self.output)):
            raise InputError(
                "The output directory holds another run",
                where=self.output,
                remedy="go on with it (--resume), or choose another output",
            )
        self.index, self.tokenizer, self.streams, self.valid = open_data(config)
        found = newest_checkpoint(self.output) if resume else None
        if found is None:
            self.progress, self.model = Progress(), build_model(config, self.tokenizer, list(self.streams))
        else:
            _check_same_run(found[1]["state"]["run"], self._identity())
            self.progress = Progress.from_json(found[1]["state"]["progress"])
            loaded = XLMWithLMHeadModel.from_pretrained(found[0])
            self.model = with_weights_of(loaded, loaded.config)
        self.loss = LossModule(self.model).train()
        module = distributed(self.loss, config.run, processes)
        self.optimiser = OriginalAdam(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            betas=(config.optimiser.beta1, config.optimiser.beta2),
            eps=config.optimiser.eps,
            weight_decay=config.optimiser.weight_decay,
        )
        self.stepper = Stepper(module, self.optimiser, config, processes=processes)
        if found is not None:
            load_optimiser(found[0], found[1], self.model, self.optimiser)
            if self.stepper.scaler.is_enabled() and (kept := found[1]["state"]["scaler"]):
                self.stepper.scaler.load_state_dict(kept)
        processes.wait()  # all have read what the first is about to change
        self.observers: list[Observer] = []
        if processes.is_first:
            make_directory(self.output)
            clean_up(self.output, None if found is None else found[0])
            self.observers = [LogFile(self.output, step=self.progress.step), *observers]
            if config.run.tensorboard:
                self.observers.append(TensorBoard(self.output))

    def _identity(self) -> dict[str, Any]:
        """What a run that is resumed must have in common with what it was."""
        settings = self.config.to_dict()
        for name in ("accumulation", "check"):
            settings["batch"].pop(name)
        return {
            "signature": self.index.signature,
            "text": _checksums(self.index, "train"),
            # What was the best so far was found on this text.
            "valid": _checksums(self.index, "valid"),
            **{name: settings[name] for name in ("seed", "model", "batch")},
        }

    def go(self, should_stop: Callable[[], bool]) -> Progress:
        """Takes steps until the run is done, is stopped or cannot go on."""
        self._tell(
            "start",
            config=self.config.to_dict(),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            kept=sum(local(parameter).numel() for parameter in self.model.parameters()),
            processes=self.processes.count,
            device=str(self.processes.device),
            updates=self.progress.updates,
        )
        reason = "done"
        rows = self.config.batch.rows // self.processes.count
        order = Order(
            windows={language: len(stream) for language, stream in self.streams.items()},
            seed=self.config.seed,
            exponent=self.config.batch.sampling_exponent,
            shuffle=self.config.batch.shuffle,
        )
        meter = Meter(self.config, self.progress)
        reading = batches(self.streams, order, self.progress.position, first_row=rows * self.processes.rank, rows=rows)
        with closing(reading):
            while self.progress.updates < self.config.run.updates:
                batch = next(reading)
                result = self.stepper(
                    torch.from_numpy(batch.input_ids),
                    self.model.config.language_id(batch.language),
                    step=self.progress.step,
                    update=self.progress.updates,
                )
                loss, stopping = self.processes.sums([result.loss / self.processes.count, float(should_stop())])
                self.progress.step += 1
                self.progress.position = batch.position
                self._after(dataclasses.replace(result, loss=loss), batch.language, meter)
                if stopping:
                    reason = "stopped"
                    break
        self._end(reason)
        return self.progress

    def _after(self, result: StepResult, language: str, meter: Meter) -> None:
        """Counts and tells a step; evaluates and saves where it is time."""
        progress, run = self.progress, self.config.run
        if not result.updated:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            self._tell("skipped", in_a_row=progress.skipped_in_a_row, skipped=progress.skipped)
            if progress.skipped_in_a_row >= run.bad_steps:
                self._end("no finite gradient")
                raise TrainingError(
                    "The gradient is not finite, again and again",
                    where=f"step {progress.step}",
                    found=f"{progress.skipped_in_a_row} steps in a row without a finite gradient",
                    remedy="lower optimiser.lr or lengthen optimiser.warmup; with float16, try bfloat16. The weights "
                    f"from before these steps are in {self.output / LAST_DIRECTORY}",
                )
            return
        progress.updates += 1
        progress.skipped_in_a_row = 0
        progress.losses.append(result.loss)
        if progress.updates % run.log_every == 0 or progress.updates == run.updates:
            self._tell(
                "update",
                updates=progress.updates,
                loss=sum(progress.losses) / len(progress.losses),
                grad_norm=result.grad_norm,
                lr=result.lr,
                language=language,
                **meter.read(),
            )
            progress.losses.clear()
        last = progress.updates == run.updates
        if self.valid and (progress.updates % run.evaluate_every == 0 or last):
            self._evaluate()
        if run.save_every and progress.updates % run.save_every == 0 and not last:
            try:
                self._save()
            except WriteError as error:  # the disk may have room again by the next time
                self._tell("not_saved", path=str(error.where), why=str(error.found))
                _LOG.warning("The state could not be saved, and the run goes on. %s", error)

    def _evaluate(self) -> None:
        found = stream_perplexities(self.loss, self.valid, processes=self.processes)
        mean = sum(found.values()) / len(found)
        best = math.isfinite(mean) and (self.progress.best is None or mean < self.progress.best)
        if best:
            self.progress.best = mean
        model = whole_model(self.model, keep=self.processes.is_first) if best else None
        if model is not None:
            try:
                self._write_model(BEST_DIRECTORY, model)
            except WriteError as error:
                self._tell("not_saved", path=str(error.where), why=str(error.found))
                _LOG.warning("The best model could not be saved, and the run goes on. %s", error)
        self._tell("evaluation", updates=self.progress.updates, perplexity=found, mean=mean, best=best)

    def _end(self, reason: str) -> None:
        try:
            model = self._save()
            if model is not None:
                self._write_model(LAST_DIRECTORY, model)
        finally:
            self.processes.wait()
        self._tell("end", reason=reason, updates=self.progress.updates)

    def _save(self) -> XLMWithLMHeadModel | None:
        """Saves the state, in the first process; returns the model with whole weights there."""
        model = whole_model(self.model, keep=self.processes.is_first)
        moments = moments_of(self.model, self.optimiser, keep=self.processes.is_first)
        if model is None or moments is None:
            return None
        state = {
            "run": self._identity(),
            "progress": self.progress.to_json(),
            "scaler": self.stepper.scaler.state_dict(),
        }
        keep = self.config.run.keep_last
        path = save_checkpoint(self.output, self.progress.step, model, moments, state, keep_last=keep)
        self._tell("saved", path=str(path))
        return model

    def _write_model(self, name: str, model: XLMWithLMHeadModel) -> None:
        model.save_pretrained(self.output / name)
        self.tokenizer.save_pretrained(self.output / name)

    def _tell(self, kind: str, **values: Any) -> None:
        event: Event = {"event": kind, "step": self.progress.step, **values}
        for observer in self.observers:
            observer(event)


def _checksums(index: Index, split: str) -> dict[str, list[str]]:
    texts = index.splits.get(split, {})
    return {language: [shard.sha256 for shard in text.shards] for language, text in texts.items()}


def _check_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises unless a run that is resumed has the data and settings that it began with."""
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        raise ConfigError(
            "the run that is resumed began with other settings",
            where="; ".join(differing),
            found="; ".join(f"{name} = {now[name]!r}" for name in differing),
            expected="; ".join(f"{name} = {before.get(name)!r}" for name in differing),
            remedy="give the settings it began with; optimiser and run may change",
        )
