"""Options of decoding, checked once."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from xlm.errors import InputError, warn_caller
from xlm.model.config import XLMConfig

_Function = TypeVar("_Function", bound=Callable[..., Any])

SPECIAL_IDS = range(14)
"""Ids of ``<s>``, ``</s>``, ``<pad>``, ``<unk>`` and ``<special0>`` to ``<special9>``.

Source: the original's ``src/data/dictionary.py``.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingOptions:
    """Options of decoding. Names, meaning and order of effect are those of ``transformers``, with four differences.

    - ``early_stopping=False`` is exact, like ``"never"`` of ``transformers``. Its own ``False``, which stops when the
      best running hypothesis at its present score would not be one of the finished, does not exist here.
    - ``suppress_tokens=None`` suppresses the special tokens; ``()`` allows all.
    - ``top_k=None`` means all tokens, whatever a configuration says.
    - Tokens that tie with the last one of ``top_p`` are kept, too.

    The scores of the next token pass through ``repetition_penalty``, ``suppress_tokens`` and ``min_new_tokens``, and
    when sampling through ``temperature``, ``top_k``, ``top_p`` and ``min_p``, in this order.

    Attributes:
        max_new_tokens: The most new tokens of a row, ``</s>`` included.
        min_new_tokens: Number of new tokens before which a row cannot end.
        do_sample: Whether to draw each token from the distribution instead of taking the best one.
        temperature: Divides the scores; from 1e-6 to 1e6.
        top_k: Keep only the k best tokens, and those that tie with the last of them; ``None`` or 0 keeps all.
        top_p: Keep only the smallest set of best tokens whose probabilities reach this sum, and those that tie with the
            last of them; 1 or ``None`` keeps all.
        min_p: Keep only tokens at least this share as probable as the best one; ``None`` or 0 keeps all.
        num_beams: Number of hypotheses that beam search keeps; 1 means no beam search.
        num_return_sequences: Number of continuations of each prompt: samples, or the best beams.
        repetition_penalty: Divides positive scores, and multiplies negative ones, of tokens that the row already holds,
            its prompt included; from 1e-6 to 1e6, where 1 changes nothing.
        length_penalty: Beams are ranked by the sum of log-probabilities / new tokens ** ``length_penalty``; from -100
            to 100.
        early_stopping: Whether beam search stops a row as soon as it has ``num_beams`` finished hypotheses. Otherwise
            it stops when no running hypothesis can still be among the best; ``"never"`` is the same as ``False``.
        eos_token_id: Id or ids that end a row; ``None`` means the model's ``</s>``, ``()`` means none.
        suppress_tokens: Ids that are never generated. ``None`` means all special tokens except those of
            ``eos_token_id``: they were never targets in training, apart from ``<unk>``, which stands for no text.
        seed: Seed of the samples: an int, or one for each row of the result. From an int the first row takes that int
            and each other row a seed derived from it. Each row is sampled from its own seed, so results do not depend
            on the batch (except through floating-point rounding, which int8 weights can magnify). ``None`` takes a seed
            from torch's global generator.
        cuda_graphs: Whether to capture a step as a CUDA graph and replay it, which saves launching its kernels one by
            one. A capture waits for the device and frees torch's cached memory on it. It is repeated when rows leave
            the batch, except for the last few steps. Under autocast each replay casts all weights again. Results are
            the same up to the order of sums. Tested without a GPU only, so it is off by default.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    eos_token_id: int | Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    seed: int | Sequence[int] | None = None
    cuda_graphs: bool = False

    @classmethod
    def checked(cls, config: XLMConfig, options: DecodingOptions | None = None, **changes: object) -> DecodingOptions:
        """Return options that are checked for a model, with its own ids in place of ``None``.

        Args:
            config: Configuration of the model.
            options: Options to start from; the defaults when ``None``.
            **changes: Options by name, which take precedence.

        Raises:
            InputError: An unknown option, a value out of range, or two options that contradict each other.
        """
        if not isinstance(config, XLMConfig):
            raise InputError("config is not an XLMConfig", where="config", found=type(config), expected="XLMConfig")
        if not isinstance(options, DecodingOptions | None):
            raise InputError(
                "options is not a DecodingOptions", where="options", found=type(options), expected="DecodingOptions"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        if not changes.keys() <= known:
            raise InputError(
                "no such decoding option",
                where=", ".join(sorted(changes.keys() - known)),
                expected=", ".join(sorted(known)),
            )
        given = dataclasses.replace(options or cls(), **changes)  # type: ignore[arg-type]  # the types are checked now
        given._check_values()
        eos = _ids(config, "eos_token_id", (config.eos_token_id,) if given.eos_token_id is None else given.eos_token_id)
        named = {config.bos_token_id, config.pad_token_id, config.unk_token_id, config.mask_token_id, *SPECIAL_IDS}
        special = sorted(index for index in named - set(eos) if index < config.vocab_size)
        suppressed = special if given.suppress_tokens is None else given.suppress_tokens
        result = dataclasses.replace(
            given, eos_token_id=eos, suppress_tokens=_ids(config, "suppress_tokens", suppressed)
        )
        result._check_choices(config)
        result._warn_of_unused()
        return result

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a row. The options must be checked."""
        assert isinstance(self.eos_token_id, tuple)
        return self.eos_token_id

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        """Ids that are never generated. The options must be checked."""
        assert isinstance(self.suppress_tokens, tuple)
        return self.suppress_tokens

    def row_seeds(self, rows: int) -> tuple[int, ...]:
        """Return one seed for each row of the result.

        Raises:
            InputError: A list of seeds of another length.
        """
        if isinstance(self.seed, Sequence):
            if len(self.seed) != rows:
                raise InputError(
                    "wrong number of seeds",
                    where="seed",
                    found=f"{len(self.seed)} seeds",
                    expected=f"an int, or {rows} of them, one for each row of the result",
                )
            return tuple(self.seed)
        first = int(torch.randint(2**63 - 1, ())) if self.seed is None else self.seed
        return (first, *(derived_seed(first, row) for row in range(1, rows)))

    def _check_values(self) -> None:
        seeds = self.seed if isinstance(self.seed, Sequence) else () if self.seed is None else (self.seed,)
        rules = [
            *(
                (name, _whole(getattr(self, name), at_least=1) and getattr(self, name) <= most, f"from 1 to {most:,}")
                for name, most in _COUNTS.items()
            ),
            (
                "min_new_tokens",
                _whole(self.min_new_tokens, at_least=0)
                and (not _whole(self.max_new_tokens, at_least=1) or self.min_new_tokens <= self.max_new_tokens),
                "a whole number from 0 to max_new_tokens",
            ),
            *((name, isinstance(getattr(self, name), bool), "true or false") for name in ("do_sample", "cuda_graphs")),
            (
                "early_stopping",
                isinstance(self.early_stopping, bool | str) and self.early_stopping in (True, False, "never"),
                "true, false or 'never'",
            ),
            *(
                # Beyond these bounds float32 scores overflow.
                (name, _real(getattr(self, name), above=0) and 1e-6 <= getattr(self, name) <= 1e6, "from 1e-6 to 1e6")
                for name in _FACTORS
            ),
            ("top_k", self.top_k is None or _whole(self.top_k, at_least=0), "a whole number, 0 or None for all"),
            ("top_p", self.top_p is None or (_real(self.top_p, above=0) and self.top_p <= 1), "above 0, at most 1"),
            ("min_p", self.min_p is None or (_real(self.min_p, above=-1) and 0 <= self.min_p <= 1), "from 0 to 1"),
            (
                "length_penalty",
                _real(self.length_penalty, above=-101) and abs(self.length_penalty) <= 100,
                "-100 to 100",
            ),
            ("seed", all(_whole(s, at_least=0) for s in seeds), "0 to 2**63 - 1, one or one a row"),
        ]
        wrong = [(name, getattr(self, name), rule) for name, holds, rule in rules if not holds]
        if wrong:
            raise InputError.of_values("invalid decoding options", wrong)

    def _check_choices(self, config: XLMConfig) -> None:
        n, beams = self.num_return_sequences, self.num_beams
        if self.do_sample and beams > 1:
            raise InputError(
                "beam search cannot sample",
                where="do_sample, num_beams",
                found=f"do_sample = True, num_beams = {beams}",
                expected="one of the two",
            )
        if not self.do_sample and n > beams:
            raise InputError(
                "fewer different continuations than num_return_sequences",
                where="num_return_sequences",
                found=f"{n} with {beams} beam{'s' if beams > 1 else ': there is one best continuation'}",
                expected="at most num_beams, unless sampling",
                remedy="do_sample=True, or more num_beams",
            )
        free = config.vocab_size - len({*self.suppressed_ids, *self.eos_ids})
        if free < beams:
            raise InputError(
                "too few tokens are left to choose from",
                where="suppress_tokens, eos_token_id, num_beams",
                found=f"{free} tokens that are neither suppressed nor end a row",
                expected=f"at least {beams}",
                remedy="suppress_tokens=() allows all",
            )

    def _warn_of_unused(self) -> None:
        unused = {
            "do_sample=True": not self.do_sample
            and [name for name in ("temperature", "top_k", "top_p", "min_p") if self._is_set(name)],
            "num_beams above 1": self.num_beams == 1
            and [name for name in ("length_penalty", "early_stopping") if self._is_set(name)],
        }
        for condition, names in unused.items():
            if names:
                warn_caller(f"{', '.join(names)}: has no effect without {condition}")

    def _is_set(self, name: str) -> bool:
        default = next(field.default for field in dataclasses.fields(self) if field.name == name)
        return bool(getattr(self, name) != default)


def lists_decoding_options(function: _Function) -> _Function:
    """Make ``inspect.signature`` and ``help`` list the options, with their defaults, in place of ``**options``."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in dataclasses.fields(DecodingOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function


def derived_seed(seed: int, row: int) -> int:
    """Return a row's own seed, from 0 to 2**63 - 1; nearby seeds and rows give unrelated ones."""
    digest = hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# num_return_sequences: the most rows that run together. The others: the largest size of a tensor.
_COUNTS = {"max_new_tokens": 2**31 - 1, "num_beams": 2**31 - 1, "num_return_sequences": 2**16}
_FACTORS = ("temperature", "repetition_penalty")


def _whole(value: object, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and at_least <= value < 2**63


def _real(value: object, *, above: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < math.inf


def _ids(config: XLMConfig, name: str, ids: object) -> tuple[int, ...]:
    values = tuple(ids) if isinstance(ids, Sequence | set | frozenset | range) else (ids,)
    if not all(_whole(value, at_least=0) and value < config.vocab_size for value in values):
        raise InputError(
            f"{name} is not in the vocabulary",
            where=name,
            found=repr(ids),
            expected=f"ids from 0 to {config.vocab_size - 1}",
        )
    return values
