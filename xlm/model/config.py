"""The configuration of a model."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

from xlm.errors import ConfigError, LanguageError, Problem

AttnImplementation = Literal["sdpa", "eager"]
"""How attention is computed: by torch's fused kernels, or by plain operations."""


class FrozenConfigError(ConfigError, dataclasses.FrozenInstanceError, TypeError):
    """Error for an attempt to change a configuration in place."""


class _FrozenDict(dict[str, int]):
    """A dict that cannot be changed. A ``MappingProxyType`` cannot be copied, pickled or written as JSON."""

    def _refuse_change(self, *_: object, **__: object) -> NoReturn:
        raise FrozenConfigError(
            "a configuration cannot be changed in place",
            where="XLMConfig.lang2id",
            found="an assignment",
            remedy="config.replace(lang2id=...) returns a changed copy",
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse_change

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclass(frozen=True, kw_only=True, slots=True)
class XLMConfig:
    """Architecture of a model, immutable; the fields have the names of the ``transformers`` configuration file.

    Attributes:
        vocab_size: Number of words in the vocabulary, special tokens included.
        emb_dim: Width D of the embeddings and of every layer.
        n_layers: Number of transformer layers.
        n_heads: Number of attention heads; divides ``emb_dim``.
        max_position_embeddings: Longest input, in tokens.
        n_langs: Number of languages that the model was trained on.
        lang2id: Id of each language name; the ids are 0 to ``n_langs - 1``. Empty if the names are unknown.
        lang_id: Language that ``generate`` of ``transformers`` uses for all tokens. Unused here.
        use_lang_emb: Whether languages have embeddings (they exist only when ``n_langs > 1``).
        sinusoidal_embeddings: Whether positions are fixed sines and cosines instead of learned.
        gelu_activation: Whether the feed-forward layers use exact (erf) GELU instead of ReLU.
        causal: Whether a position attends only to itself and to positions left of it.
        share_inout_emb: Whether the output projection is the word embedding matrix.
        asm: Whether the head is an adaptive softmax, which never uses the word embeddings as its weight.
        asm_cutoffs: First word id of each tail cluster of an adaptive softmax, ascending, below ``vocab_size``.
        asm_div_value: Factor by which each cluster of an adaptive softmax is narrower than the cluster before it.
        dropout: Probability of dropping an activation in training.
        attention_dropout: Probability of dropping an attention weight in training.
        layer_norm_eps: Number added to the variance in every layer norm.
        attn_implementation: How attention is computed: ``"sdpa"`` by torch's fused kernels, ``"eager"`` by plain
            operations, which can be differentiated twice and in forward mode. It is not saved.
        embed_init_std: Standard deviation of new embeddings; ``None`` means ``emb_dim ** -0.5``, as in the original.
        bos_token_id: Id of ``<s>``, a token that the original never trains.
        eos_token_id: Id of ``</s>``, which begins and ends every sentence.
        pad_token_id: Id of ``<pad>``.
        unk_token_id: Id of ``<unk>``.
        mask_token_id: Id of ``<special1>``, the mask of the MLM objective.

    Raises:
        ConfigError: Values are invalid. The error names all invalid values. If some values have the wrong type, the
            error names only those of the wrong type.

    Source: paper section 5.1 and the original's ``src/model/transformer.py``, ``TransformerModel.__init__``.
    """

    vocab_size: int
    emb_dim: int
    n_layers: int
    n_heads: int
    max_position_embeddings: int = 512
    n_langs: int = 1
    lang2id: Mapping[str, int] = field(default_factory=dict, hash=False)
    lang_id: int = 0
    use_lang_emb: bool = True
    sinusoidal_embeddings: bool = False
    gelu_activation: bool = True
    causal: bool = True
    share_inout_emb: bool = True
    asm: bool = False
    asm_cutoffs: tuple[int, ...] = ()
    asm_div_value: float = 4.0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    attn_implementation: AttnImplementation = "sdpa"
    embed_init_std: float | None = None
    bos_token_id: int = 0
    eos_token_id: int = 1
    pad_token_id: int = 2
    unk_token_id: int = 3
    mask_token_id: int = 5

    def __post_init__(self) -> None:
        if isinstance(self.lang2id, Mapping):
            object.__setattr__(self, "lang2id", _FrozenDict(self.lang2id))
        if isinstance(self.asm_cutoffs, Sequence):
            object.__setattr__(self, "asm_cutoffs", tuple(self.asm_cutoffs))
        problems = _wrong_types(self) or _wrong_values(self)
        if problems:
            raise ConfigError.of_values(
                "the configuration is invalid",
                problems,
                remedy="correct these keys; if they come from a file, that file is damaged or is not of an XLM model",
            )

    @classmethod
    def clm_ende_1024(cls, **changes: Any) -> XLMConfig:
        """Return the configuration of the published English-German causal model, ``xlm-clm-ende-1024``.

        Args:
            **changes: Fields to change, with their values.

        Returns:
            6 layers of width 1024 with 8 heads, 64,699 words, 512 positions, 2 languages: 142,422,203 parameters.

        Source: paper section 5.1; the published ``config.json``.
        """
        published = cls(vocab_size=64699, emb_dim=1024, n_layers=6, n_heads=8, n_langs=2, lang2id={"de": 0, "en": 1})
        return published.replace(**changes)

    @property
    def model_type(self) -> str:
        """The ``model_type`` of the configuration file, which libraries for ``transformers`` ask for."""
        return "xlm"

    @property
    def head_dim(self) -> int:
        """Width H of one attention head."""
        return self.emb_dim // self.n_heads

    @property
    def has_language_embeddings(self) -> bool:
        """Whether language ids change what the model computes."""
        return self.use_lang_emb and self.n_langs > 1

    @property
    def tied(self) -> bool:
        """Whether the output projection and the word embeddings are one matrix."""
        return self.share_inout_emb and not self.asm

    @property
    def id2lang(self) -> dict[int, str]:
        """Language names by id."""
        return {index: name for name, index in self.lang2id.items()}

    def language_id(self, language: str | int) -> int:
        """Return the id of a language.

        Args:
            language: A name in ``lang2id``, or an id from 0 to ``n_langs - 1``.

        Raises:
            LanguageError: The model does not have this language.
        """
        if isinstance(language, str) and language in self.lang2id:
            return self.lang2id[language]
        if isinstance(language, int) and not isinstance(language, bool) and 0 <= language < self.n_langs:
            return language
        known = ", ".join(f"{name} ({index})" for name, index in sorted(self.lang2id.items(), key=lambda kv: kv[1]))
        raise LanguageError(
            "the model does not have this language",
            where="langs",
            found=repr(language),
            expected=known or f"an id from 0 to {self.n_langs - 1} (this model's file names no languages)",
            remedy="pass one of these names or ids",
        )

    def replace(self, **changes: Any) -> XLMConfig:
        """Return a checked copy with some fields changed.

        A model keeps the configuration that it was built with. To open a model with other values, pass ``causal``,
        ``dropout`` or ``attention_dropout`` to ``from_pretrained``.

        Args:
            **changes: Fields to change, with their values.

        Raises:
            ConfigError: A value is invalid.
            TypeError: There is no such field.
        """
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict of plain values, ready for JSON; ``XLMConfig(**values)`` restores them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "lang2id": dict(self.lang2id), "asm_cutoffs": list(self.asm_cutoffs)}

    def to_json_string(self) -> str:
        """Return ``to_dict()`` as JSON, which the TensorBoard callback of ``transformers`` logs."""
        return json.dumps(self.to_dict(), indent=2)


def _refuse_change(config: XLMConfig, name: str, value: object = None) -> None:
    if name == "use_cache":
        # The Trainer of transformers sets this on every model. Here, a cache is used only if it is passed.
        return
    names = [f.name for f in dataclasses.fields(config)]
    if name not in names:
        raise FrozenConfigError(
            "a configuration has no such attribute", where="XLMConfig", found=name, expected=", ".join(names)
        )
    raise FrozenConfigError(
        "a configuration cannot be changed in place",
        where=f"XLMConfig.{name}",
        found=f"{name} = {getattr(config, name)!r}",
        remedy=f"config.replace({name}=...) returns a changed copy",
    )


# The dataclass decorator forbids a frozen class to define these methods in its body, so they are assigned here. They
# replace the generated methods, whose error does not say whether the attribute exists.
XLMConfig.__setattr__ = XLMConfig.__delattr__ = _refuse_change  # type: ignore[assignment,method-assign]


def check_config(config: object, *, where: str) -> None:
    """Raise ``ConfigError`` unless this is an ``XLMConfig``."""
    if not isinstance(config, XLMConfig):
        raise ConfigError(
            "config is not an XLMConfig", where=where, found=type(config).__name__, expected="an XLMConfig"
        )


# Largest number allowed in a configuration. It is far above the values of any model, and low enough that no file can
# make the sizes of tensors overflow.
_LARGEST = 2**31 - 1


def _wrong_types(config: XLMConfig) -> list[Problem]:
    checks: dict[str, Callable[[Any], bool]] = {
        "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) <= _LARGEST,
        "bool": lambda v: isinstance(v, bool),
        "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _LARGEST,
        "AttnImplementation": lambda v: isinstance(v, str),
        "float | None": lambda v: v is None or checks["float"](v),
        "tuple[int, ...]": lambda v: isinstance(v, tuple) and all(checks["int"](x) for x in v),
        "Mapping[str, int]": lambda v: (
            isinstance(v, Mapping) and all(isinstance(k, str) and checks["int"](x) for k, x in v.items())
        ),
    }
    return [
        (f.name, getattr(config, f.name), f"a value of type {f.type}, at most {_LARGEST:,}")
        for f in dataclasses.fields(config)
        if not checks[str(f.type)](getattr(config, f.name))
    ]


def _wrong_values(c: XLMConfig) -> list[Problem]:
    rules: list[tuple[str, bool, str]] = [
        (name, getattr(c, name) >= 1, "at least 1")
        for name in ("vocab_size", "emb_dim", "n_layers", "n_heads", "max_position_embeddings", "n_langs")
    ]
    rules += [(name, 0 <= getattr(c, name) < 1, "from 0 to below 1") for name in ("dropout", "attention_dropout")]
    rules += [
        (name, 0 <= getattr(c, name) < c.vocab_size, f"an id from 0 to {c.vocab_size - 1}")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "mask_token_id")
    ]
    edges = (0, *c.asm_cutoffs, c.vocab_size)
    ascending = all(a < b for a, b in itertools.pairwise(edges))
    rules += [
        ("n_heads", c.n_heads < 1 or c.emb_dim % c.n_heads == 0, f"a divisor of emb_dim = {c.emb_dim}"),
        (
            "attn_implementation",
            c.attn_implementation in get_args(AttnImplementation),
            " or ".join(get_args(AttnImplementation)),
        ),
        ("layer_norm_eps", c.layer_norm_eps > 0, "above 0"),
        ("embed_init_std", c.embed_init_std is None or c.embed_init_std > 0, "above 0, or None"),
        ("lang_id", 0 <= c.lang_id < max(c.n_langs, 1), f"an id from 0 to {c.n_langs - 1}"),
        (
            "lang2id",
            not c.lang2id
            or (len(c.lang2id) == c.n_langs and sorted(c.lang2id.values()) == list(range(len(c.lang2id)))),
            f"{c.n_langs} names with the ids 0 to {c.n_langs - 1}, each once, or nothing",
        ),
        (
            "asm_cutoffs",
            not c.asm or (bool(c.asm_cutoffs) and ascending),
            f"ascending, above 0 and below vocab_size = {c.vocab_size}",
        ),
        ("asm_div_value", not c.asm or 1 <= c.asm_div_value <= c.emb_dim, f"from 1 to emb_dim = {c.emb_dim}"),
    ]
    return [(name, getattr(c, name), rule) for name, holds, rule in rules if not holds]
