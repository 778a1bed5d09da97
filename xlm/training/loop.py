"""The training loop: steps, validation, checkpoints, and when a run ends."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xlm._io.atomic import make_directory
from xlm.errors import ConfigError, InputError, TrainingError, WriteError
from xlm.model.sharded import local_part
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.training.checkpoints import (
    clean_up,
    gather_moments,
    has_checkpoints,
    load_optimiser,
    newest_checkpoint,
    read_adapters,
    save_checkpoint,
)
from xlm.training.config import TrainConfig, changed_keys, default_tables, flat, with_new_names
from xlm.training.log import Event, LogFile, Observer, TensorBoard, WeightsAndBiases, flat_metrics
from xlm.training.lora import adapter_weights, add_adapters, load_adapters, without_adapters
from xlm.training.objectives import Batch, Objective
from xlm.training.optimiser import OriginalAdam
from xlm.training.processes import (
    ModelCaller,
    Processes,
    TrainableModel,
    gather_model,
    join_processes,
    wrap_model,
)
from xlm.training.setup import (
    build_model,
    build_objective,
    copy_parts,
    freeze_parameters,
    open_data,
    reload_model,
)
from xlm.training.step import StepResult, TrainingStep

BEST_DIRECTORY, LAST_DIRECTORY = "best", "last"
_LOG = logging.getLogger("xlm")


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run has come. Together with the weights and moments, this determines everything that follows.

    Attributes:
        step: Number of batches taken.
        updates: Number of updates made; smaller than ``step`` if steps were skipped.
        skipped: Number of steps skipped because their gradient was not finite.
        skipped_in_a_row: Number of steps that were skipped in a row, up to the last step.
        best: Best value so far of the metric that decides which model is the best.
        best_metric: Name of that metric; empty before the first evaluation.
        without_best: Number of evaluations since the one with the best value.
        losses: Losses of the updates since the last line of the log, by objective.
        position: Position of the objective in its data; empty at the beginning.
    """

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_metric: str = ""
    without_best: int = 0
    losses: dict[str, list[float]] = field(default_factory=dict)
    position: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Return the progress saved in a checkpoint."""
        if isinstance(values["losses"], list):  # an earlier release had one objective and one metric
            best_metric = "" if values["best"] is None else "mean"
            values = {**values, "losses": {"clm": values["losses"]}, "best_metric": best_metric}
        return cls(**values)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train a model, and write it to the output directory as ``last`` and, if it was evaluated, ``best``.

    Args:
        config: The configuration of the run.
        resume: Whether to continue from the newest intact checkpoint in the output directory. Without a checkpoint,
            the run starts from the beginning.
        observers: Called with each event, in the first process; see ``xlm.training.log``.
        should_stop: Called after each step. If it returns true in any process, the run saves its state and ends.

    Returns:
        How far the run got.

    Raises:
        ConfigError: The settings do not fit together, or differ from those of the run to resume.
        InputError: The data cannot be trained on, or the output directory holds another run.
        CheckpointError: No checkpoint is intact.
        TrainingError: Too many steps in a row had no finite gradient; the state was saved.
        WriteError: The last state could not be saved.
    """
    output = Path(config.output)
    has_models = any((output / name).exists() for name in (BEST_DIRECTORY, LAST_DIRECTORY))
    if not resume and (has_models or has_checkpoints(output)):
        raise InputError(
            "the output directory holds another run",
            where=output,
            remedy="continue that run with --resume, or choose another output",
        )
    # Each step seeds the CPU's random generator, so restore the caller's generator state afterwards.
    with join_processes(config.run.device, timeout=config.run.timeout) as processes, torch.random.fork_rng(devices=[]):
        index, tokenizer = open_data(Path(config.data))
        objective = build_objective(config, index, tokenizer, processes)
        return Trainer(config, objective, tokenizer, processes, resume=resume, observers=observers).run(should_stop)


class Trainer:
    """The part of a run that one process carries out.

    Args:
        config: The configuration of the run.
        objective: What the run optimises.
        tokenizer: Tokenizer of the data, saved in the same directories as the models.
        processes: Processes of the run.
        resume: Whether to continue from the newest intact checkpoint.
        observers: Called with each event, in the first process.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        tokenizer: XLMTokenizer,
        processes: Processes,
        *,
        resume: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.config, self.objective, self.tokenizer, self.processes = config, objective, tokenizer, processes
        self.output = Path(config.output)
        self._check_metrics()
        checkpoint = newest_checkpoint(self.output) if resume else None
        self._notes: list[tuple[str, dict[str, Any]]] = []  # kinds and values of the events that follow the first one
        self.progress, self.model = self._start() if checkpoint is None else self._continue(*checkpoint)
        self.caller = ModelCaller(self.model).train()
        # Causal language modelling trains only the decoder of a translation model.
        module = wrap_model(
            self.caller, config.run, processes, skips_parameters=config.is_translation and "clm" in config.kinds
        )
        self.optimiser = OriginalAdam(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            betas=(config.optimiser.beta1, config.optimiser.beta2),
            eps=config.optimiser.eps,
            weight_decay=config.optimiser.weight_decay,
        )
        self.take_step = TrainingStep(module, objective.loss, self.optimiser, config, processes=processes)
        if checkpoint is not None:
            path, contents = checkpoint
            load_optimiser(path, contents, self.model, self.optimiser)
            if self.take_step.scaler.is_enabled() and (scaler := contents["state"]["scaler"]):
                self.take_step.scaler.load_state_dict(scaler)
        processes.wait()  # all processes have read the files that the first one is about to change
        self.observers: list[Observer] = []
        if processes.is_first:
            make_directory(self.output)
            clean_up(self.output, None if checkpoint is None else checkpoint[0])
            self.observers = [LogFile(self.output, step=self.progress.step), *observers]
            if config.run.tensorboard:
                self.observers.append(TensorBoard(self.output))
            if config.run.wandb:
                self.observers.append(WeightsAndBiases(self.output, config.run.wandb))

    def _start(self) -> tuple[Progress, TrainableModel]:
        """Return the progress and the model of a run that begins."""
        model = build_model(self.config, self.tokenizer, self.objective.languages)
        if self.config.model.start_parts:
            self._notes.append(("parts", copy_parts(model, self.config, self.tokenizer)))
        self._choose_parameters(model)
        return Progress(), model

    def _continue(self, path: Path, contents: Mapping[str, Any]) -> tuple[Progress, TrainableModel]:
        """Return the progress and the model of a checkpoint, whose run must have the same settings and data."""
        state = contents["state"]
        _check_identity(state["run"], self._identity())
        if "config" in state:  # earlier releases did not save it
            self._notes += [("changed", change) for change in changed_keys(state["config"], self.config.to_dict())]
        model = reload_model(self.config, path)
        self._choose_parameters(model)
        if self.config.lora.rank:
            load_adapters(model, read_adapters(path))
        return Progress.from_json(state["progress"]), model

    def _choose_parameters(self, model: TrainableModel) -> None:
        """Check a model, and freeze the parameters that are not trained; with LoRA, add those that are."""
        self.objective.check(model)
        if self.config.model.freeze:
            freeze_parameters(model, self.config)
        if self.config.lora.rank:
            add_adapters(model, self.config.lora)

    def _identity(self) -> dict[str, Any]:
        """Return the settings and data that a resumed run must share with the run that it continues."""
        settings = self.config.to_dict()
        for name in ("gradient_accumulation_steps", "verify_checksums"):
            settings["batch"].pop(name)
        return {
            **self.objective.identity(),
            **{name: settings[name] for name in ("objectives", "seed", "model", "lora", "batch")},
        }

    def _check_metrics(self) -> None:
        metrics, name, patience = self.objective.metrics, self.config.run.best_metric, self.config.run.patience
        if name and name not in metrics:
            expected = ", ".join(metrics) or "left out: the run evaluates nothing"
            raise ConfigError("no such metric", where="run.best_metric", found=name, expected=expected)
        if patience and not metrics:
            expected = "0: the run evaluates nothing, because it has no held-out text or run.evaluate_every is 0"
            raise ConfigError("patience has no effect", where="run.patience", found=patience, expected=expected)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Progress:
        """Take steps until the run is done, is stopped or cannot continue.

        Args:
            should_stop: Called after each step; see ``train``.
        """
        self._emit(
            "start",
            config=self.config.to_dict(),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            trained=sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad),
            kept=sum(local_part(parameter).numel() for parameter in self.model.parameters()),
            processes=self.processes.count,
            device=str(self.processes.device),
            updates=self.progress.updates,
        )
        for kind, values in self._notes:
            self._emit(kind, **values)
        meter = _Meter(self.progress.updates)
        with closing(self.objective.batches(self.progress.position)) as batches:
            while (reason := self._end_reason()) is None:
                batch = next(batches)
                result = self.take_step(
                    batch.pieces, step=self.progress.step, update=self.progress.updates, weight=batch.weight
                )
                loss, stopping = self.processes.sums([result.loss / self.processes.count, float(should_stop())])
                self.progress.step += 1
                self.progress.position = batch.position
                meter.tokens += batch.tokens
                self._after_step(dataclasses.replace(result, loss=loss), batch, meter)
                if stopping:
                    reason = "stopped"
                    break
        self._end(reason)
        return self.progress

    def _end_reason(self) -> str | None:
        """Return the reason to take no further step, or None if there is none."""
        run, progress = self.config.run, self.progress
        if progress.updates >= run.max_steps:
            return "done"
        if run.patience and progress.without_best >= run.patience:
            return f"no new best in {progress.without_best} evaluations"
        return None

    def _after_step(self, result: StepResult, batch: Batch, meter: _Meter) -> None:
        """Count and log a step. Validate the model and save the state when they are due."""
        progress, run = self.progress, self.config.run
        if not result.updated:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            self._emit("skipped", in_a_row=progress.skipped_in_a_row, skipped=progress.skipped)
            if progress.skipped_in_a_row >= run.max_bad_steps:
                self._end("no finite gradient")
                raise TrainingError(
                    f"non-finite gradients in {progress.skipped_in_a_row} steps in a row",
                    where=f"step {progress.step}",
                    remedy="lower optimiser.lr or raise optimiser.warmup_steps; with float16, try bfloat16. "
                    f"The weights from before these steps are in {self.output / LAST_DIRECTORY}",
                )
            return
        progress.updates += 1
        progress.skipped_in_a_row = 0
        progress.losses.setdefault(batch.objective, []).append(result.loss)
        is_last = progress.updates == run.max_steps
        if progress.updates % run.log_every == 0 or is_last:
            self._emit(
                "update",
                updates=progress.updates,
                loss=_mean([loss for losses in progress.losses.values() for loss in losses]),
                losses={name: _mean(losses) for name, losses in progress.losses.items()},
                grad_norm=result.grad_norm,
                lr=result.lr,
                language=batch.language,
                **meter.read(progress.updates, run.max_steps),
            )
            progress.losses.clear()
        if run.evaluate_every and (progress.updates % run.evaluate_every == 0 or is_last):
            self._validate()
        if run.save_every and progress.updates % run.save_every == 0 and not is_last:
            try:
                self._save()
            except WriteError as error:  # the next attempt may succeed, for example if the disk has room again
                self._report_unsaved("the state", error)

    def _validate(self) -> None:
        metrics, progress = self.objective.metrics, self.progress
        if not metrics:
            return
        results = self.objective.validate(self.caller, updates=progress.updates)
        name = self.config.run.best_metric or next(iter(metrics))
        value = flat_metrics(results)[name]
        if progress.best_metric not in ("", name):  # the run was resumed with a different metric
            progress.best = None
        progress.best_metric = name
        sign = -1 if metrics[name] else 1
        is_best = math.isfinite(value) and (progress.best is None or sign * value < sign * progress.best)
        if is_best:
            progress.best = value
        progress.without_best = 0 if is_best else progress.without_best + 1
        model = self._gathered() if is_best else None
        if model is not None:
            try:
                self._write_model(BEST_DIRECTORY, model)
            except WriteError as error:
                self._report_unsaved("the best model", error)
        self._emit("evaluation", updates=progress.updates, **results, best=is_best)

    def _report_unsaved(self, what: str, error: WriteError) -> None:
        self._emit("not_saved", path=str(error.where), why=str(error.found))
        _LOG.warning("%s could not be saved; the run continues: %s", what, error)

    def _end(self, reason: str) -> None:
        try:
            model = self._save()
            if model is not None:
                self._write_model(LAST_DIRECTORY, model)
        finally:
            self.processes.wait()
        self._emit("end", reason=reason, updates=self.progress.updates)

    def _save(self) -> TrainableModel | None:
        """Save the state, and return the model with unsharded weights, or None in all processes but the first."""
        model = self._gathered()
        moments, ages = gather_moments(self.model, self.optimiser, keep=self.processes.is_first)
        if model is None:
            return None
        state = {
            "run": self._identity(),
            "config": self.config.to_dict(),
            "progress": dataclasses.asdict(self.progress),
            "scaler": self.take_step.scaler.state_dict(),
        }
        has_adapters = self.config.lora.rank > 0
        path = save_checkpoint(
            self.output,
            self.progress.step,
            without_adapters(model, merge=False) if has_adapters else model,
            moments,
            ages,
            state,
            adapters=adapter_weights(model) if has_adapters else {},
            keep_last=self.config.run.keep_last,
        )
        self._emit("saved", path=str(path))
        return model

    def _gathered(self) -> TrainableModel | None:
        adapt = partial(add_adapters, settings=self.config.lora) if self.config.lora.rank else None
        return gather_model(self.model, keep=self.processes.is_first, adapt=adapt)

    def _write_model(self, name: str, model: TrainableModel) -> None:
        if self.config.lora.rank:
            model = without_adapters(model, merge=True)
        model.save_pretrained(self.output / name)
        self.tokenizer.save_pretrained(self.output / name)

    def _emit(self, kind: str, **values: Any) -> None:
        event: Event = {"event": kind, "step": self.progress.step, **values}
        for observer in self.observers:
            observer(event)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class _Meter:
    """Measures the speed of a run and estimates how long it will take.

    Args:
        updates: Number of updates made before the meter starts.

    Attributes:
        tokens: Tokens predicted since the last reading.
    """

    def __init__(self, updates: int) -> None:
        self._first = updates
        self._start = self._last_read = time.perf_counter()
        self.tokens = 0

    def read(self, updates: int, max_steps: int) -> dict[str, Any]:
        """Return the tokens per second since the last reading, the seconds since the start, and the seconds left."""
        now = time.perf_counter()
        values = {
            "tokens_per_second": round(self.tokens / max(now - self._last_read, 1e-9), 1),
            "seconds": round(now - self._start, 2),
            "left": round((now - self._start) / (updates - self._first) * (max_steps - updates)),
        }
        self._last_read, self.tokens = now, 0
        return values


def _check_identity(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the data and settings that it began with.

    Raises:
        ConfigError: The data or settings differ; the error names every difference.
    """
    before = with_new_names(before, warn=False)
    before.setdefault("objectives", ["clm"])  # an earlier release had no other objective, and did not save the key
    # A key that an earlier release did not have counts as set to its default.
    defaults = default_tables()
    for name in ("model", "lora", "batch", "coefficients"):
        before[name] = {key: defaults[name].get(key) for key in now.get(name, ())} | before.get(name, {})
    first, second = (flat({name: values[name] for name in now if name in before}) for values in (before, now))
    differing = [key for key in dict.fromkeys([*second, *first]) if first.get(key) != second.get(key)]
    if differing:
        raise ConfigError(
            "the run to resume began with different settings",
            where="; ".join(differing),
            found="; ".join(f"{key} = {second.get(key)!r}" for key in differing),
            expected="; ".join(f"{key} = {first.get(key)!r}" for key in differing),
            remedy="use the settings it began with; only optimiser and run may change",
        )
