"""The configuration of a training run: typed, checked as a whole, written in TOML."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm.errors import ConfigError, Problem
from xlm.training.schedule import SCHEDULES
from xlm.training.typed import typed, wrong_keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRECISIONS = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
SHARDINGS = ("none", "full")
SHIPPED = Path(__file__).parent / "configs"
"""Configurations that come with the package, found by their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """What is trained.

    Attributes:
        start_from: A model directory, ``.pth`` or bundled model to train on; empty for a new model, whose architecture
            the keys below give (see ``XLMConfig``; vocabulary and languages are those of the data).
        emb_dim: Width; a new model needs it.
        n_layers: Layers; a new model needs them.
        n_heads: Attention heads; a new model needs them.
        max_position_embeddings: Longest input; 512 by default.
        sinusoidal_embeddings: Fixed positions; false by default.
        gelu_activation: GELU, else ReLU; true by default.
        use_lang_emb: Language embeddings; true by default.
        share_inout_emb: One matrix for input and output words; true by default.
        dropout: By default 0.1, or that of ``start_from``.
        attention_dropout: The same.
    """

    start_from: str = ""
    emb_dim: int | None = None
    n_layers: int | None = None
    n_heads: int | None = None
    max_position_embeddings: int | None = None
    sinusoidal_embeddings: bool | None = None
    gelu_activation: bool | None = None
    use_lang_emb: bool | None = None
    share_inout_emb: bool | None = None
    dropout: float | None = None
    attention_dropout: float | None = None

    def given(self) -> dict[str, Any]:
        """The keys of the architecture that are set."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "start_from"}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """What one update sees.

    Attributes:
        rows: Rows of a batch, over all processes and pieces together.
        width: Tokens of a row.
        accumulation: Pieces in which each process takes its rows, one after the other.
        sampling_exponent: Draw languages with probabilities proportional to their shares to this power; unset: each
            language once a round.
        shuffle: Whether the windows of a text come in an order drawn anew for each pass.
        check: Whether to compare the checksums of the shards at the start.
    """

    rows: int = 32
    width: int = 256
    accumulation: int = 1
    sampling_exponent: float | None = None
    shuffle: bool = True
    check: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings:
    """How weights change; see ``OriginalAdam`` and ``learning_rate``.

    Attributes:
        lr: Highest learning rate.
        schedule: ``inverse_sqrt`` (the original's), ``cosine`` or ``constant``.
        warmup: Updates over which the rate rises.
        beta1: Of the first moment.
        beta2: Of the second.
        eps: Added to the root of the second moment.
        weight_decay: Of every weight, in units of the learning rate.
        clip_norm: Longest gradient; a longer one is shortened to this.
    """

    lr: float = 1e-4
    schedule: str = "inverse_sqrt"
    warmup: int = 4000
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How long, where, and what is kept.

    Attributes:
        updates: After how many the run is done.
        precision: Of the products: ``float32``, ``bfloat16`` or ``float16`` (with loss scaling). Weights, moments and
            sums are float32.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        sharding: What several processes share out: ``none``, each has the whole model; or ``full``, weights, gradients
            and moments.
        timeout: Seconds after which a process that waits for another gives up, and the run ends with an error.
        activation_checkpointing: Compute each layer again in the backward pass instead of keeping what is inside it.
        compile: Have ``torch.compile`` work on the layers.
        log_every: Updates between two lines of the log.
        evaluate_every: Updates between two evaluations on the split ``valid``; 0 for none.
        save_every: Updates between two checkpoints; 0 for one at the end only.
        keep_last: How many checkpoints stay.
        bad_steps: After how many steps in a row without a finite gradient the run ends.
        tensorboard: Whether to write TensorBoard's files too.
    """

    updates: int = 100_000
    precision: str = "float32"
    device: str = "auto"
    sharding: str = "none"
    timeout: int = 600
    activation_checkpointing: bool = False
    compile: bool = False
    log_every: int = 10
    evaluate_every: int = 1000
    save_every: int = 1000
    keep_last: int = 2
    bad_steps: int = 20
    tensorboard: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: Directory that ``xlm prepare`` filled.
        output: Directory of the run, made when missing.
        seed: Of new weights, order of batches and dropout.
        model: What is trained.
        batch: What one update sees.
        optimiser: How weights change.
        run: How long, where, and what is kept.

    Raises:
        ConfigError: Values that make no run, all of them in one error.
    """

    data: str
    output: str
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        problems = _wrong_values(self)
        if problems:
            raise wrong_keys(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration of nested keys and values, as in the file.

        Raises:
            ConfigError: Unknown or missing keys, wrong types or values; each is named.
        """
        built, problems = typed(cls, values)
        if not problems:
            return cls(**built)
        # What has the right type is checked for its value too: all mistakes come at once.
        unchecked = object.__new__(cls)
        for part in dataclasses.fields(cls):
            object.__setattr__(unchecked, part.name, built.get(part.name, "left out" if part.type == "str" else 0))
        named = {key for key, _, _ in problems}
        raise wrong_keys([*problems, *(found for found in _wrong_values(unchecked) if found[0] not in named)])

    def to_dict(self) -> dict[str, Any]:
        """Nested keys and values, without those that are unset."""

        def without_none(values: dict[str, Any]) -> dict[str, Any]:
            return {
                key: without_none(value) if isinstance(value, dict) else value
                for key, value in values.items()
                if value is not None
            }

        return without_none(dataclasses.asdict(self))


def load_config(name_or_path: str, changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a TOML file, with some keys changed.

    Args:
        name_or_path: A file, or the name of a shipped configuration.
        changes: ``key=value`` each, such as ``optimiser.lr=0.001``; what is no TOML value counts as text.

    Raises:
        ConfigError: No such file, not TOML, or values that make no run.
    """
    path = Path(name_or_path)
    if not path.is_file():
        shipped = sorted(found.stem for found in SHIPPED.glob("*.toml"))
        if name_or_path not in shipped:
            raise ConfigError(
                "There is no such configuration",
                where=name_or_path,
                expected=f"a TOML file, or one of {', '.join(shipped)}",
            )
        path = SHIPPED / f"{name_or_path}.toml"
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("The configuration is not TOML", where=path, found=error) from error
    for change in changes:
        _change(values, change)
    return TrainConfig.from_dict(values)


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not name:
        raise ConfigError("A change is not key=value", where="--set", found=change, expected="such as run.updates=9")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError("A change goes into what is no table", where="--set", found=change)
    values[name] = value


def _wrong_values(c: TrainConfig) -> list[Problem]:
    rules: list[tuple[str, bool, str]] = [
        *((key, _is_name(_value(c, key)), "a directory; its name in UTF-8") for key in ("data", "output")),
        ("model.start_from", not c.model.start_from or _is_name(c.model.start_from), "a model; its name in UTF-8"),
        ("seed", 0 <= c.seed < 2**63, "from 0 to 2**63 - 1"),
        ("batch.width", c.batch.width >= 2, "at least 2"),
        ("optimiser.lr", 0 < c.optimiser.lr < float("inf"), "above 0"),
        ("optimiser.schedule", c.optimiser.schedule in SCHEDULES, " or ".join(SCHEDULES)),
        ("optimiser.eps", c.optimiser.eps > 0, "above 0"),
        ("optimiser.clip_norm", c.optimiser.clip_norm > 0, "above 0"),
        ("run.precision", c.run.precision in PRECISIONS, " or ".join(PRECISIONS)),
        ("run.device", c.run.device in DEVICES, " or ".join(DEVICES)),
        ("run.sharding", c.run.sharding in SHARDINGS, " or ".join(SHARDINGS)),
    ]
    at_least_1 = ("batch.rows", "batch.accumulation", "run.updates", "run.timeout", "run.log_every")
    rules += [(key, _value(c, key) >= 1, "at least 1") for key in (*at_least_1, "run.keep_last", "run.bad_steps")]
    at_least_0 = ("optimiser.warmup", "optimiser.weight_decay", "run.evaluate_every", "run.save_every")
    rules += [(key, _value(c, key) >= 0, "at least 0") for key in at_least_0]
    rules += [(key, 0 <= _value(c, key) < 1, "from 0 to below 1") for key in ("optimiser.beta1", "optimiser.beta2")]
    exponent = c.batch.sampling_exponent
    rules.append(("batch.sampling_exponent", exponent is None or exponent >= 0, "at least 0, or left out"))
    pieces = max(c.batch.accumulation, 1)
    rules.append(("batch.rows", c.batch.rows % pieces == 0, f"a multiple of batch.accumulation, {pieces}"))
    architecture = set(c.model.given()) - {"dropout", "attention_dropout"}
    if c.model.start_from:
        rules += [
            (f"model.{key}", False, "left out: model.start_from says what the model is") for key in sorted(architecture)
        ]
    else:
        needed = ("emb_dim", "n_layers", "n_heads")
        rules += [(f"model.{key}", key in architecture, "given, or model.start_from") for key in needed]
    return [(key, _value(c, key), rule) for key, holds, rule in rules if not holds]


def _is_name(path: str) -> bool:
    """Whether it can be a path, and stand in the files of a run."""
    return bool(path) and "\0" not in path and path == path.encode("utf-8", "ignore").decode()


def _value(config: TrainConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
