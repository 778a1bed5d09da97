"""The state of a run on disk: whole or not there, checked before it is used, older states behind it.

A checkpoint is a directory ``checkpoints/step-N`` of the run: the model in the ``transformers`` layout, the
optimiser's moments in ``optimiser.safetensors``, all numbers in ``state.json``. That last file holds the checksums of
the others and of itself. Nothing in any of them is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from xlm._atomic import make_directory, replacing_directory, write_error, write_text
from xlm.checkpoint.layout_weights import read_safetensors
from xlm.checkpoint.safetensors_writer import write_safetensors
from xlm.data.shards import file_sha256
from xlm.errors import CheckpointError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.sharding import placed_like, whole

DIRECTORY = "checkpoints"
_STATE = "state.json"
_OPTIMISER = "optimiser.safetensors"
_FORMAT = "xlm training state 1"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_LOG = logging.getLogger("xlm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """What an optimiser keeps.

    Attributes:
        tensors: By ``exp_avg.`` or ``exp_avg_sq.`` and the parameter's name; whole ones.
        ages: How many updates each parameter has seen, by its name.
    """

    tensors: dict[str, Tensor]
    ages: dict[str, int]


def moments_of(model: XLMWithLMHeadModel, optimiser: Optimizer, *, keep: bool) -> Moments | None:
    """The moments of all parameters, put together where they are shared out; all processes must call this.

    Args:
        model: Gives the names.
        optimiser: Of its parameters.
        keep: Whether this process wants them; the others get None.
    """
    tensors, ages = {}, {}
    for name, parameter in model.named_parameters():
        if state := optimiser.state.get(parameter):
            ages[name] = int(state["step"])
            for moment in _MOMENTS:
                gathered = whole(state[moment].detach())
                if keep:
                    tensors[f"{moment}.{name}"] = gathered.cpu()
    return Moments(tensors=tensors, ages=ages) if keep else None


def save_checkpoint(
    run: Path, step: int, model: XLMWithLMHeadModel, moments: Moments, state: Mapping[str, Any], *, keep_last: int
) -> Path:
    """Writes the state of a run, and removes the oldest states when there are more than are to be kept.

    Args:
        run: Directory of the run.
        step: Number of the step after which this is the state; one that is there already stays as it is.
        model: The model, with whole weights.
        moments: Its optimiser's.
        state: Everything else, as JSON.
        keep_last: How many states stay.

    Returns:
        The directory of the checkpoint.

    Raises:
        WriteError: It could not be written; the states before it are still there.
    """
    target = run / DIRECTORY / f"step-{step:09}"
    if not target.exists():
        make_directory(target.parent)
        with replacing_directory(target) as directory:
            model.save_pretrained(directory)
            try:
                write_safetensors(directory / _OPTIMISER, moments.tensors)
            except OSError as error:
                raise write_error(directory / _OPTIMISER, error) from error
            files = {path.name: file_sha256(path) for path in sorted(directory.iterdir())}
            contents = {"format": _FORMAT, "step": step, "ages": moments.ages, "files": files, "state": dict(state)}
            write_text(directory / _STATE, json.dumps({**contents, "sha256": _checksum(contents)}, indent=1) + "\n")
    for old in _found(run)[keep_last:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _checksum(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _found(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return sorted((path for path in (run / DIRECTORY).glob("step-*") if path.name[5:].isdigit()), reverse=True)


def has_checkpoints(run: Path) -> bool:
    """Whether a run has states on disk, damaged ones among them."""
    return bool(_found(run))


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest state of a run that is whole, with its numbers; None when there never was one.

    What is damaged is named in a warning in the log, and passed over.

    Raises:
        CheckpointError: There are states, and all are damaged.
    """
    damaged = []
    for path in _found(run):
        try:
            return path, _checked(path)
        except CheckpointError as error:
            _LOG.warning("A checkpoint is damaged, and the one before it is used. %s", error)
            damaged.append(path)
    if damaged:
        raise CheckpointError(
            "All checkpoints of the run are damaged",
            where=run / DIRECTORY,
            found=", ".join(path.name for path in damaged),
            remedy="begin again, in another output directory",
        )
    return None


def clean_up(run: Path, path: Path | None) -> None:
    """Makes room for what the run will write: nothing else may be writing there.

    What an earlier process began to write when it was killed is removed. States newer than ``path``, which are
    damaged, get other names.
    """
    for unfinished in (run / DIRECTORY).glob(".*.tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for newer in _found(run):
        if newer == path:
            return
        aside = newer.with_name(f"{newer.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        newer.rename(aside)


def _checked(path: Path) -> dict[str, Any]:
    try:
        contents: dict[str, Any] = json.loads((path / _STATE).read_text("utf-8"))
        checksum = contents.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError("the state cannot be read", where=path / _STATE, found=error) from error
    if checksum != _checksum(contents) or contents.get("format") != _FORMAT:
        raise CheckpointError("the state is not what was written", where=path / _STATE, found="another checksum")
    objects = all(isinstance(contents.get(key), dict) for key in ("files", "ages", "state"))
    if not objects or any(Path(name).name != name for name in contents["files"]):
        raise CheckpointError(
            "the state is not one of a run",
            where=path / _STATE,
            found="files, ages or state of another kind, or a file elsewhere",
            expected="what xlm train wrote",
        )
    for name, expected in contents["files"].items():
        file = path / name
        found = file_sha256(file) if file.is_file() else "no such file"
        if found != expected:
            raise CheckpointError("a file is not what was written", where=file, found=found, expected=expected)
    return contents


def load_optimiser(path: Path, contents: Mapping[str, Any], model: XLMWithLMHeadModel, optimiser: Optimizer) -> None:
    """Gives the optimiser the moments of a checkpoint that ``newest_checkpoint`` found; all processes must call this.

    Args:
        path: The checkpoint.
        contents: Its numbers.
        model: Whose parameters the optimiser has.
        optimiser: Is changed.

    Raises:
        CheckpointError: They are those of another model.
    """
    moments = read_safetensors(path / _OPTIMISER)
    parameters = dict(model.named_parameters())
    for name, age in contents["ages"].items():
        state: dict[str, Any] = {"step": int(age)}
        for moment in _MOMENTS:
            tensor = moments.get(f"{moment}.{name}")
            if tensor is None or name not in parameters or tensor.shape != parameters[name].shape:
                raise CheckpointError("the moments are of another model", where=path / _OPTIMISER, found=name)
            state[moment] = placed_like(tensor, parameters[name])
        optimiser.state[parameters[name]] = state
