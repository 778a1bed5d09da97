"""Checkpoints of a run: written atomically, verified before use.

A checkpoint is a directory ``checkpoints/step-N`` of the run. It holds the model in the ``transformers`` layout, the
optimiser's moments in ``optimiser.safetensors``, and everything else in ``state.json``, which also holds
checksums of the other files and of its own contents. Nothing in these files is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from xlm._io.atomic import make_directory, replacing_directory, write_error, write_text
from xlm.checkpoint.hf_weights import read_safetensors, write_safetensors
from xlm.data.shards import file_sha256
from xlm.errors import CheckpointError
from xlm.model.sharded import gather, place_like
from xlm.training.processes import TrainableModel

DIRECTORY = "checkpoints"
_STATE = "state.json"
_OPTIMISER = "optimiser.safetensors"
_ADAPTERS = "adapters.safetensors"
_FORMAT = "xlm training state 1"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_LOG = logging.getLogger("xlm")


def gather_moments(
    model: TrainableModel, optimiser: Optimizer, *, keep: bool
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the moments of all parameters and the number of updates of each; all processes must call this.

    Args:
        model: The model.
        optimiser: Optimiser of the model's parameters.
        keep: Whether this process needs the moments; the others get none.

    Returns:
        The unsharded moments, with the key ``exp_avg.NAME`` or ``exp_avg_sq.NAME`` for the parameter NAME; and the
        number of updates of each parameter, by its name.
    """
    moments, ages = {}, {}
    for name, parameter in model.named_parameters():
        if state := optimiser.state.get(parameter):
            ages[name] = int(state["step"])
            for moment in _MOMENTS:
                gathered = gather(state[moment].detach())
                if keep:
                    moments[f"{moment}.{name}"] = gathered.cpu()
    return moments, ages


def save_checkpoint(
    run: Path,
    step: int,
    model: TrainableModel,
    moments: Mapping[str, Tensor],
    ages: Mapping[str, int],
    state: Mapping[str, Any],
    *,
    adapters: Mapping[str, Tensor],
    keep_last: int,
) -> Path:
    """Write a checkpoint, and remove the oldest ones.

    Args:
        run: Directory of the run.
        step: Number of steps taken. An existing checkpoint of that step stays as it is.
        model: The model, with unsharded weights.
        moments: Moments of the model's optimiser, from ``gather_moments``.
        ages: Number of updates of each parameter, from ``gather_moments``.
        state: Everything else, as a JSON object.
        adapters: Matrices of the adapters, which the model is then without; empty for none.
        keep_last: Number of checkpoints to keep.

    Returns:
        The directory of the checkpoint.

    Raises:
        WriteError: The checkpoint could not be written; older ones are still there.
    """
    target = run / DIRECTORY / f"step-{step:09}"
    if not target.exists():
        make_directory(target.parent)
        with replacing_directory(target) as directory:
            model.save_pretrained(directory)
            for name, tensors in {_OPTIMISER: moments, **({_ADAPTERS: adapters} if adapters else {})}.items():
                try:
                    write_safetensors(directory / name, tensors)
                except OSError as error:
                    raise write_error(directory / name, error) from error
            files = {path.name: file_sha256(path) for path in sorted(directory.iterdir())}
            contents = {"format": _FORMAT, "step": step, "ages": dict(ages), "files": files, "state": dict(state)}
            write_text(directory / _STATE, json.dumps({**contents, "sha256": _checksum(contents)}, indent=1) + "\n")
    for old in _checkpoints(run)[keep_last:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _checksum(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    return sorted((path for path in (run / DIRECTORY).glob("step-*") if path.name[5:].isdigit()), reverse=True)


def has_checkpoints(run: Path) -> bool:
    """Return whether a run has checkpoints, even if they are damaged."""
    return bool(_checkpoints(run))


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest intact checkpoint and the contents of its ``state.json``; None if the run has no checkpoint.

    Damaged checkpoints are skipped, with a warning in the log.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged.
    """
    damaged = []
    for path in _checkpoints(run):
        try:
            return path, _verified_contents(path)
        except CheckpointError as error:
            _LOG.warning("a checkpoint is damaged; the one before it is used: %s", error)
            damaged.append(path)
    if damaged:
        raise CheckpointError(
            "all checkpoints of the run are damaged",
            where=run / DIRECTORY,
            found=", ".join(path.name for path in damaged),
            remedy="start again, in another output directory",
        )
    return None


def clean_up(run: Path, path: Path | None) -> None:
    """Remove half-written files of a killed process, and rename damaged checkpoints. No other process may write here.

    Args:
        run: Directory of the run.
        path: The newest intact checkpoint, or None if there is none. Newer checkpoints are damaged.
    """
    for unfinished in [*run.glob(".*.tmp"), *run.glob("*/.*.tmp")]:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink()
    for newer in _checkpoints(run):
        if newer == path:
            return
        aside = newer.with_name(f"{newer.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        newer.rename(aside)


def _verified_contents(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's ``state.json``, after verifying the checksums of all its files."""
    try:
        contents: dict[str, Any] = json.loads((path / _STATE).read_text("utf-8"))
        checksum = contents.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError("the checkpoint cannot be read", where=path / _STATE, found=error) from error
    if checksum != _checksum(contents) or contents.get("format") != _FORMAT:
        raise CheckpointError("the checkpoint was changed", where=path / _STATE, found="another checksum")
    are_objects = all(isinstance(contents.get(key), dict) for key in ("files", "ages", "state"))
    if not are_objects or any(Path(name).name != name for name in contents["files"]):
        found = "files, ages or state of another type, or a file elsewhere"
        raise CheckpointError("not the state of a training run", where=path / _STATE, found=found)
    for name, expected in contents["files"].items():
        file = path / name
        actual = file_sha256(file) if file.is_file() else "no such file"
        if actual != expected:
            raise CheckpointError("a file of the checkpoint was changed", where=file, found=actual, expected=expected)
    return contents


def read_adapters(path: Path) -> dict[str, Tensor]:
    """Return the matrices of the adapters in a checkpoint.

    Raises:
        CheckpointError: The checkpoint has none.
    """
    return read_safetensors(path / _ADAPTERS)


def load_optimiser(path: Path, contents: Mapping[str, Any], model: TrainableModel, optimiser: Optimizer) -> None:
    """Load the moments of a checkpoint into an optimiser; all processes must call this.

    Args:
        path: The checkpoint, from ``newest_checkpoint``.
        contents: The contents of its ``state.json``.
        model: The model.
        optimiser: Optimiser of the model's parameters.

    Raises:
        CheckpointError: The moments belong to another model.
    """
    moments = read_safetensors(path / _OPTIMISER)
    parameters = dict(model.named_parameters())
    for name, age in contents["ages"].items():
        state: dict[str, Any] = {"step": int(age)}
        for moment in _MOMENTS:
            tensor = moments.get(f"{moment}.{name}")
            if tensor is None or name not in parameters or tensor.shape != parameters[name].shape:
                raise CheckpointError("the moments belong to another model", where=path / _OPTIMISER, found=name)
            state[moment] = place_like(tensor, parameters[name])
        optimiser.state[parameters[name]] = state
