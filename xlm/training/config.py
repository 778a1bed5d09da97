"""The configuration of a training run: dataclasses, read from TOML and checked as a whole."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from xlm.errors import ConfigError, Problem, warn_caller

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OBJECTIVES = "clm, clm:L, ae:L, bt:A-B-A or mt:A-B, with languages whose names have no '-'"
BLEU_TEXTS = ("text", "tokenized")
SCHEDULES = ("inverse_sqrt", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
SHARDINGS = ("none", "full")
SHIPPED = Path(__file__).parent / "configs"
"""Directory of the configurations that come with the package and are found by name."""

RENAMED = {
    "batch.rows": "batch_size",
    "batch.width": "seq_len",
    "batch.accumulation": "gradient_accumulation_steps",
    "batch.check": "verify_checksums",
    "optimiser.warmup": "warmup_steps",
    "run.updates": "max_steps",
    "run.bad_steps": "max_bad_steps",
}
"""New name of each renamed key, by its old name. Files with old names are still read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """The model to train.

    Attributes:
        start_from: Model directory, ``.pth`` file or bundled model to train further. Empty for a new model, whose
            architecture the other keys give; see ``XLMConfig``. Vocabulary and languages are those of the data. For
            translation: a translation model, or a language model from which both encoder and decoder start.
        encoder: For translation: the language model from which the encoder alone starts.
        decoder: For translation: the language model from which the decoder alone starts.
        start_parts: Patterns of the names of tensors to copy from ``start_from`` into a new model, such as
            ``transformer.embeddings.*``, where they fit. Empty for the whole model.
        freeze: Patterns of the names of parameters that are not trained, such as ``transformer.embeddings.*``.
        emb_dim: Width; required for a new model.
        n_layers: Number of layers; required for a new model.
        n_heads: Number of attention heads; required for a new model.
        max_position_embeddings: Maximum number of tokens in an input; default 512.
        sinusoidal_embeddings: Whether position embeddings are fixed instead of learned; default false.
        gelu_activation: GELU if true, else ReLU; default true.
        use_lang_emb: Whether there are language embeddings; default true.
        share_inout_emb: Whether input and output words share one matrix; default true.
        dropout: Probability of dropping an activation; default 0.1, or the value of ``start_from``.
        attention_dropout: Probability of dropping an attention weight; default as for ``dropout``.
    """

    start_from: str = ""
    encoder: str = ""
    decoder: str = ""
    start_parts: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
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

    def config_kwargs(self) -> dict[str, Any]:
        """Return those keys of the architecture that are set, as arguments of ``XLMConfig``."""
        others = ("start_from", "encoder", "decoder", "start_parts", "freeze")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in others}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Low-rank adapters (LoRA), which are trained in place of the model's own weights.

    Attributes:
        rank: Rank of the adapters; 0 for no adapters.
        alpha: Adapters are multiplied by ``alpha / rank``.
        dropout: Probability of dropping an input of an adapter.
        targets: Last parts of the names of the linear layers that get adapters: of ``query``, ``key``, ``value``,
            ``output``, ``up`` and ``down``.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """The batch of one update.

    Attributes:
        batch_size: Rows of a batch, over all processes and accumulation steps together; for translation, sentences.
        seq_len: For ``clm``: tokens of a row.
        gradient_accumulation_steps: Number of pieces into which each process splits its rows, to save memory.
        tokens_per_batch: For translation: approximate number of tokens in a batch, instead of ``batch_size``
            sentences; 0 means batches of ``batch_size`` sentences.
        max_batch_size: For translation: maximum number of sentences in a batch; 0 for no limit.
        group_by_size: For translation: whether the sentences of a batch have similar lengths.
        max_length: For translation: maximum number of tokens in a sentence, without ``</s>``. Longer sentences
            are left out.
        sampling_exponent: For ``clm``: draw languages with probabilities proportional to their sizes raised to this
            power. If it is unset, every language comes once per round.
        shuffle: For ``clm``: whether to shuffle the windows of a text anew for each pass. Sentences are always
            shuffled.
        verify_checksums: Whether to verify the checksums of the shards at the start.
    """

    batch_size: int = 32
    seq_len: int = 256
    gradient_accumulation_steps: int = 1
    tokens_per_batch: int = 0
    max_batch_size: int = 0
    group_by_size: bool = True
    max_length: int = 100
    sampling_exponent: float | None = None
    shuffle: bool = True
    verify_checksums: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSettings:
    """How strongly denoising (``ae``) noises sentences.

    Attributes:
        word_shuffle: Tokens move by fewer than this many places; 0 turns shuffling off.
        word_dropout: Probability of dropping a token.
        word_blank: Probability of replacing a token by the mask.
    """

    word_shuffle: float = 3.0
    word_dropout: float = 0.1
    word_blank: float = 0.1


CoefficientText: TypeAlias = str
"""A coefficient as text; a configuration may also give a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoefficientSettings:
    """Coefficients of losses in a mixture: each a number, or ``ITERATION:NUMBER`` pairs such as ``0:1,100000:0.1``.

    Attributes:
        clm: Coefficient of the causal language modelling loss.
        ae: Coefficient of the denoising loss.
        bt: Coefficient of the back-translation loss.
        mt: Coefficient of the loss of supervised translation.
    """

    clm: CoefficientText = "1"
    ae: CoefficientText = "1"
    bt: CoefficientText = "1"
    mt: CoefficientText = "1"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How translations of the held-out pairs are made and compared.

    Attributes:
        batch_size: Number of sentences that are translated together.
        num_beams: Number of hypotheses that beam search keeps; 1 for greedy search.
        bleu: ``text`` computes BLEU on ordinary text; ``tokenized`` computes it on words separated by blanks, as in the
            paper.
    """

    batch_size: int = 32
    num_beams: int = 1
    bleu: str = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings:
    """How weights are updated; see ``OriginalAdam`` and ``learning_rate``.

    Attributes:
        lr: Highest learning rate.
        schedule: ``inverse_sqrt`` (the original's), ``cosine`` or ``constant``.
        warmup_steps: Number of updates over which the learning rate rises.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Added to the square root of the second moment.
        weight_decay: Each update shrinks every weight by this fraction times the learning rate.
        clip_norm: Gradients with a larger norm are scaled down to this norm.
    """

    lr: float = 1e-4
    schedule: str = "inverse_sqrt"
    warmup_steps: int = 4000
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How long a run takes, where it runs, and what it keeps.

    Attributes:
        max_steps: Number of updates after which the run is done. Skipped steps do not count.
        precision: Precision of matrix products: ``float32``, ``bfloat16``, or ``float16`` (with loss scaling). Weights,
            moments and sums are float32.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        sharding: ``none``: every process has the whole model. ``full``: the processes share weights, gradients and
            moments. While it translates, a process holds all weights, but still only its part of the gradients and
            moments.
        timeout: Seconds after which a process that waits for another gives up, and the run ends with an error.
        activation_checkpointing: Whether to recompute each layer in the backward pass instead of keeping its
            activations.
        compile: Whether to compile the layers with ``torch.compile``.
        log_every: Number of updates between two lines of the log.
        evaluate_every: Number of updates between two evaluations on the split ``valid``; 0 for none.
        best_metric: Metric that decides which model is the best, such as ``perplexity.de`` or ``bleu.de-en``. Empty for
            the first metric of the objective: the mean perplexity, or for translation the mean BLEU.
        patience: The run ends after this many evaluations in a row without a new best result; 0 disables this.
        save_every: Number of updates between two checkpoints; 0 for a single one, at the end.
        keep_last: Number of checkpoints to keep.
        max_bad_steps: The run ends after this many steps in a row without a finite gradient.
        tensorboard: Whether to write files for TensorBoard too.
        wandb: Project of Weights & Biases that receives the numbers too; empty for none.
    """

    max_steps: int = 100_000
    precision: str = "float32"
    device: str = "auto"
    sharding: str = "none"
    timeout: int = 600
    activation_checkpointing: bool = False
    compile: bool = False
    log_every: int = 10
    evaluate_every: int = 1000
    best_metric: str = ""
    patience: int = 0
    save_every: int = 1000
    keep_last: int = 2
    max_bad_steps: int = 20
    tensorboard: bool = False
    wandb: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: Directory of prepared data, from ``xlm prepare``.
        output: Directory of the run, created if it is missing.
        objectives: What the run optimises: ``clm``, causal language modelling in all languages of the text, or
            ``clm:L`` in some of them; for translation any of ``ae:L`` (denoising), ``bt:A-B-A`` (back-translation) and
            ``mt:A-B`` (supervised), with or without ``clm``, which then trains the decoder.
        seed: Seed of new weights, of the order of batches and of dropout.
        model: The model to train.
        lora: Adapters to train in its place.
        batch: The batch of one update.
        noise: How strongly ``ae`` noises sentences.
        coefficients: Coefficients of the losses of a mixture.
        evaluation: How held-out pairs are translated.
        optimiser: How weights are updated.
        run: How long the run takes, where it runs, and what it keeps.

    Raises:
        ConfigError: Values are invalid; the error names all of them.
    """

    data: str
    output: str
    objectives: tuple[str, ...] = ("clm",)
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    coefficients: CoefficientSettings = field(default_factory=CoefficientSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if problems := _invalid_values(self):
            raise _invalid_config(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration with nested keys and values, as in a file.

        Raises:
            ConfigError: Keys are unknown or missing, or values have the wrong type or are invalid. The error
                names all of them.
        """
        problems: list[Problem] = []
        arguments = _typed_arguments(cls, with_new_names(values), "", problems)
        if not problems:
            return cls(**arguments)
        # Values of the right type are checked too, so that the error names all mistakes at once.
        unchecked = object.__new__(cls)
        for part in dataclasses.fields(cls):
            default = "missing" if part.default is dataclasses.MISSING else part.default
            object.__setattr__(unchecked, part.name, arguments.get(part.name, default))
        named = {key for key, _, _ in problems}
        raise _invalid_config(
            [*problems, *(problem for problem in _invalid_values(unchecked) if problem[0] not in named)]
        )

    @property
    def is_translation(self) -> bool:
        """Whether the run trains an encoder-decoder."""
        return self.kinds != {"clm"}

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of the objectives, such as ``ae`` and ``bt``."""
        return frozenset(text.partition(":")[0] for text in self.objectives)

    def to_dict(self) -> dict[str, Any]:
        """Return nested keys and values in the form of JSON and TOML, without those that are unset."""
        return _plain(dataclasses.asdict(self))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested keys and values in the form of JSON and TOML, without those that are unset."""
    return {
        key: _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None
    }


def default_tables() -> dict[str, dict[str, Any]]:
    """Return the default of every key that is in a table, by table, in the form of JSON and TOML."""
    makers = {table.name: table.default_factory for table in dataclasses.fields(TrainConfig)}
    return {
        name: _plain(dataclasses.asdict(make())) for name, make in makers.items() if make is not dataclasses.MISSING
    }


def load_config(name_or_path: str, changes: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration in a TOML file, with some keys overridden.

    Args:
        name_or_path: A file, or the name of a configuration that comes with the package.
        changes: Overrides ``key=value``, such as ``optimiser.lr=0.001``. A value that is not valid TOML is read as
            text.

    Raises:
        ConfigError: The file does not exist, is not TOML or has invalid values.
    """
    path = Path(name_or_path)
    if not path.is_file():
        shipped = sorted(file.stem for file in SHIPPED.glob("*.toml"))
        if name_or_path not in shipped:
            expected = f"a TOML file, or one of {', '.join(shipped)}"
            raise ConfigError("no such configuration", where=name_or_path, expected=expected)
        path = SHIPPED / f"{name_or_path}.toml"
    try:
        values = with_new_names(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration is not TOML", where=path, found=error) from error
    for change in changes:
        _override(values, change)
    return TrainConfig.from_dict(values)


def with_new_names(values: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Return nested keys and values, with each old name in ``RENAMED`` replaced by the new one.

    Args:
        values: Nested keys and values, perhaps of an older release.
        warn: Whether to warn if there are old names.

    Raises:
        ConfigError: A key is given under both its names.
    """
    tables = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    old_names = []
    for old, new in RENAMED.items():
        table, name = old.split(".")
        keys = tables.get(table)
        if isinstance(keys, dict) and name in keys:
            if new in keys:
                raise ConfigError(
                    "a key is given twice, under its old name and its new one",
                    where=f"{old}, {table}.{new}",
                    found=f"{keys[name]!r}, {keys[new]!r}",
                    expected=f"{table}.{new} alone",
                )
            keys[new] = keys.pop(name)
            old_names.append(old)
    if old_names and warn:
        _warn_of_old_names(old_names)
    return tables


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each key whose value differs between two configurations, as ``key``, ``before`` and ``now``.

    Args:
        before: Nested keys and values, from ``TrainConfig.to_dict`` of this release or an older one. A key that the
            older one did not have counts as set to its default.
        now: Nested keys and values, from ``TrainConfig.to_dict``.
    """
    first, second = {**flat(default_tables()), **flat(before)}, flat(now)
    return [
        {"key": key, "before": first.get(key), "now": second.get(key)}
        for key in dict.fromkeys([*second, *first])
        if first.get(key) != second.get(key)
    ]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested keys and values with dotted keys."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            result[name] = value
    return result


def _warn_of_old_names(old_names: Sequence[str]) -> None:
    renamed = ", ".join(f"{old} is now {old.partition('.')[0]}.{RENAMED[old]}" for old in old_names)
    warn_caller(f"deprecated configuration keys, which a later release will no longer read: {renamed}")


def _override(values: dict[str, Any], change: str) -> None:
    """Set the value of a key in nested keys and values."""
    key, equals, text = change.partition("=")
    key = key.strip()
    *tables, name = key.split(".")
    if key in RENAMED:
        name = RENAMED[key]
        _warn_of_old_names([key])
    if not equals or not name:
        raise ConfigError(
            "the override is not key=value", where="--set", found=change, expected="key=value, such as run.max_steps=9"
        )
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError("the override targets a key that is not a table", where="--set", found=change)
    values[name] = value


_TYPES: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any], str]] = {
    "str": (lambda value: isinstance(value, str), str, "text"),
    "bool": (lambda value: isinstance(value, bool), bool, "true or false"),
    "int": (lambda value: isinstance(value, int) and not isinstance(value, bool), int, "a whole number"),
    "float": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), float, "a number"),
    "CoefficientText": (
        lambda value: isinstance(value, str | int | float) and not isinstance(value, bool),
        str,
        "a number, or text such as '0:1,1000:0.1'",
    ),
    "tuple[str, ...]": (
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
        tuple,
        "a list of texts",
    ),
}
"""For each type annotation of a key: a test of a value's type, a conversion, and the rule that an error names."""


def _typed_arguments(kind: type[Any], values: object, prefix: str, problems: list[Problem]) -> dict[str, Any]:
    """Return arguments for a dataclass, with the dataclasses nested in it already built.

    Wrong and missing keys are omitted from the arguments; inner dataclasses use their defaults for these keys.

    Args:
        kind: The dataclass. In the dataclasses nested in it, all fields must have defaults.
        values: Nested keys and values.
        prefix: Prefix of the dataclass's keys in an error, such as ``run.``.
        problems: List to which every problem found is appended.
    """
    if not isinstance(values, Mapping):
        problems.append((prefix.rstrip("."), values, "a table of keys"))
        return {}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    for key in values:
        if key not in fields:
            problems.append((f"{prefix}{key}", values[key], f"one of the keys {', '.join(fields)}"))
    arguments: dict[str, Any] = {}
    for name, definition in fields.items():
        if dataclasses.is_dataclass(hints[name]):
            inner = _typed_arguments(hints[name], values.get(name, {}), f"{prefix}{name}.", problems)
            arguments[name] = hints[name](**inner)
        elif name in values:
            accepts, convert, rule = _TYPES[str(definition.type).removesuffix(" | None")]
            if accepts(values[name]):
                arguments[name] = convert(values[name])
            else:
                problems.append((f"{prefix}{name}", values[name], rule))
        elif definition.default is definition.default_factory is dataclasses.MISSING:
            problems.append((f"{prefix}{name}", None, "it must be given"))
    return arguments


def _invalid_config(problems: Sequence[Problem]) -> ConfigError:
    """Return the error that names all problems."""
    remedy = "correct these keys in the file, or with --set key=value"
    return ConfigError.of_values("the configuration is invalid", problems, remedy=remedy)


_CHOICES = {
    "optimiser.schedule": SCHEDULES,
    "run.precision": PRECISIONS,
    "run.device": DEVICES,
    "run.sharding": SHARDINGS,
    "evaluation.bleu": BLEU_TEXTS,
}
_AT_LEAST = {
    "batch.batch_size": 1,
    "batch.seq_len": 2,
    "batch.gradient_accumulation_steps": 1,
    "batch.tokens_per_batch": 0,
    "batch.max_batch_size": 0,
    "batch.max_length": 1,
    "batch.sampling_exponent": 0,
    "evaluation.batch_size": 1,
    "evaluation.num_beams": 1,
    "lora.rank": 0,
    "optimiser.warmup_steps": 0,
    "optimiser.weight_decay": 0,
    "run.max_steps": 1,
    "run.timeout": 1,
    "run.log_every": 1,
    "run.evaluate_every": 0,
    "run.patience": 0,
    "run.save_every": 0,
    "run.keep_last": 1,
    "run.max_bad_steps": 1,
}


def _invalid_values(c: TrainConfig) -> list[Problem]:
    """Return the problems of a configuration: values that are out of range, or that do not fit together."""
    pieces = max(c.batch.gradient_accumulation_steps, 1)
    has_start = bool(c.model.start_from or c.model.encoder or c.model.decoder)
    rules: list[tuple[str, bool, str]] = [
        *((key, _is_name(_value(c, key)), "a directory, named in UTF-8") for key in ("data", "output")),
        *(
            (f"model.{key}", not getattr(c.model, key) or _is_name(getattr(c.model, key)), "a model, named in UTF-8")
            for key in ("start_from", "encoder", "decoder")
        ),
        ("seed", 0 <= c.seed < 2**63, "from 0 to 2**63 - 1"),
        ("objectives", _are_objectives(c.objectives), f"{OBJECTIVES}; each once, and clm instead of any clm:L"),
        *(
            (f"model.{key}", holds or not getattr(c.model, key), f"left out: {why}")
            for key in ("encoder", "decoder")
            for holds, why in (
                (c.is_translation, "it is for translation"),
                (not c.model.start_from, "model.start_from starts both halves"),
            )
        ),
        *(
            (key, c.is_translation or not _value(c, key), "0: it is for translation")
            for key in ("batch.tokens_per_batch", "batch.max_batch_size")
        ),
        ("batch.shuffle", c.batch.shuffle or "clm" in c.kinds, "true: translation always shuffles sentences"),
        ("batch.sampling_exponent", c.batch.sampling_exponent is None or "clm" in c.kinds, "left out: it is for clm"),
        *(
            (
                f"coefficients.{key.name}",
                _value(c, f"coefficients.{key.name}") == key.default or (c.is_translation and key.name in c.kinds),
                f"left out: it is for {key.name} in a translation run",
            )
            for key in dataclasses.fields(CoefficientSettings)
        ),
        *(
            (
                f"noise.{key.name}",
                _value(c, f"noise.{key.name}") == key.default or "ae" in c.kinds,
                "left out: it is for ae",
            )
            for key in dataclasses.fields(NoiseSettings)
        ),
        ("noise.word_shuffle", c.noise.word_shuffle == 0 or 1 < c.noise.word_shuffle < math.inf, "0 or above 1"),
        *((key, 0 <= _value(c, key) < 1, "from 0 to below 1") for key in ("noise.word_dropout", "noise.word_blank")),
        *((key, _value(c, key) in choices, " or ".join(choices)) for key, choices in _CHOICES.items()),
        (
            "model.start_parts",
            not c.model.start_parts or bool(c.model.start_from and not c.is_translation),
            "left out: it takes parts of model.start_from, for clm",
        ),
        *(
            (f"lora.{key.name}", c.lora.rank > 0 or _value(c, f"lora.{key.name}") == key.default, "left out: rank is 0")
            for key in dataclasses.fields(LoraSettings)
            if key.name != "rank"
        ),
        ("lora.rank", c.lora.rank == 0 or has_start, "0: adapters need a model to start from"),
        ("lora.alpha", 0 < c.lora.alpha < math.inf, "above 0"),
        ("lora.dropout", 0 <= c.lora.dropout < 1, "from 0 to below 1"),
        ("lora.targets", len(c.lora.targets) > 0, "at least one name"),
        ("model.freeze", not (c.model.freeze and c.lora.rank), "left out: adapters freeze the whole model"),
        ("optimiser.lr", 0 < c.optimiser.lr < math.inf, "above 0"),
        *((key, _value(c, key) > 0, "above 0") for key in ("optimiser.eps", "optimiser.clip_norm")),
        *((key, 0 <= _value(c, key) < 1, "from 0 to below 1") for key in ("optimiser.beta1", "optimiser.beta2")),
        *(
            (key, _value(c, key) is None or _value(c, key) >= least, f"at least {least}")
            for key, least in _AT_LEAST.items()
        ),
        (
            "batch.batch_size",
            # Sentences may be divided unevenly.
            "clm" not in c.kinds or c.batch.batch_size % pieces == 0,
            f"a multiple of batch.gradient_accumulation_steps, {pieces}",
        ),
    ]
    architecture = set(c.model.config_kwargs()) - {"dropout", "attention_dropout"}
    if has_start and not c.model.start_parts:
        rule = "no value, because the model to start from determines the architecture"
        rules += [(f"model.{key}", False, rule) for key in sorted(architecture)]
    else:
        required = ("emb_dim", "n_layers", "n_heads")
        rules += [
            (f"model.{key}", key in architecture, "a value, or model.start_from instead, without model.start_parts")
            for key in required
        ]
    return [(key, _value(c, key), rule) for key, holds, rule in rules if not holds]


def _are_objectives(objectives: Sequence[str]) -> bool:
    try:
        kinds = [parse_objective(text)[0] for text in objectives]
    except ConfigError:
        return False
    return len(set(objectives)) == len(objectives) > 0 and ("clm" not in objectives or kinds.count("clm") == 1)


def parse_objective(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind and the languages of an objective, such as ``bt:de-en-de``.

    Raises:
        ConfigError: There is no such objective.
    """
    kind, colon, names = text.partition(":")
    languages = tuple(names.split("-")) if colon else ()
    first, *others = languages or ("",)
    valid = {
        "clm": len(languages) < 2,
        "ae": len(languages) == 1,
        "mt": len(languages) == 2 and first not in others,
        "bt": len(languages) == 3 and first == languages[-1] != languages[1],
    }
    if not valid.get(kind) or not all(languages):
        raise ConfigError("no such objective", where="objectives", found=repr(text), expected=OBJECTIVES)
    return kind, languages


def _is_name(path: str) -> bool:
    """Return whether a text is a possible path that can be written in UTF-8."""
    return bool(path) and "\0" not in path and path == path.encode("utf-8", "ignore").decode()


def _value(config: TrainConfig, key: str) -> Any:
    return attrgetter(key)(config)
