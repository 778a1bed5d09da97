"""The options of decoding and their checks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from xlm._io.arguments import lists_options
from xlm.errors import InputError, warn_caller
from xlm.model.config import XLMConfig, check_config

SPECIAL_IDS = range(14)
"""Ids of ``<s>``, ``</s>``, ``<pad>``, ``<unk>`` and ``<special0>`` to ``<special9>``.

Source: the original's ``src/data/dictionary.py``.
"""

_MAX_NEW_TOKENS = 64
_MAX_INT = 2**63 - 1

# Largest allowed values. They bound the number of rows in a batch (num_return_sequences) and the sizes of tensors.
_LARGEST_COUNTS = {"max_new_tokens": 2**31 - 1, "num_beams": 2**31 - 1, "num_return_sequences": 2**16}


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingOptions:
    """Options of decoding. Their names, meanings and order are those of ``transformers``, with four differences.

    - ``early_stopping=False`` is exact, like ``"never"`` of ``transformers``. The heuristic that ``False`` selects in
      ``transformers`` does not exist here.
    - ``suppress_tokens=None`` suppresses the special tokens; ``()`` suppresses none.
    - ``top_k=None`` keeps all tokens, whatever a configuration file says.
    - Tokens with the same score as the last token that ``top_p`` keeps are kept, too.

    The scores of the next token pass through ``repetition_penalty``, ``suppress_tokens`` and ``min_new_tokens``, and
    when sampling through ``temperature``, ``top_k``, ``top_p`` and ``min_p``, in this order.

    Attributes:
        max_new_tokens: Maximum number of new tokens in a row, ``</s>`` included. ``None`` means 64; for translation, it
            leaves the limit to ``max_length``.
        min_new_tokens: Minimum number of new tokens before the one that ends a row.
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
        early_stopping: Whether beam search of a prompt stops as soon as ``num_beams`` hypotheses are finished. With
            ``False`` or ``"never"``, it stops when no running hypothesis can still become one of the best.
        eos_token_id: Id or ids that end a row; ``None`` means the model's ``</s>``, ``()`` means none.
        suppress_tokens: Ids that are never generated. ``None`` means all special tokens except those of
            ``eos_token_id``: they were never targets in training, apart from ``<unk>``, which represents no text.
        seed: Seed of the samples: an int, or one int for each row of the result. With a single int, the first row uses
            it, and the seeds of the other rows are derived from it. Each row is sampled from its own seed, so results
            do not depend on the batch (except through floating-point rounding, which int8 weights can magnify).
            ``None`` takes a seed from torch's global generator.
        cuda_graphs: Whether to capture a step as a CUDA graph and replay it, which saves launching its kernels one by
            one. A capture waits for the device and frees torch's cached memory on it. The capture is repeated when rows
            leave the batch, except for the last few steps. Under autocast, each replay casts all weights again. Results
            are the same up to the order of sums. This option was tested without a GPU only, so it is off by default.
    """

    max_new_tokens: int | None = None
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
        """Check options for a model, and return them with the model's ids in place of ``None``.

        Args:
            config: Configuration of the model.
            options: Options to start from; ``None`` means the defaults.
            **changes: Options by name, which take precedence.

        Raises:
            InputError: An unknown option, a value out of range, or two options that contradict each other.
        """
        check_config(config, where="DecodingOptions.checked")
        if not isinstance(options, DecodingOptions | None):
            raise InputError(
                "options are not DecodingOptions",
                where="options",
                found=type(options).__name__,
                expected="DecodingOptions or None",
            )
        known = {field.name for field in dataclasses.fields(cls)}
        if not changes.keys() <= known:
            raise InputError(
                "no such decoding option",
                where=", ".join(sorted(changes.keys() - known)),
                expected=", ".join(sorted(known)),
            )
        options = dataclasses.replace(options or cls(), **changes)  # type: ignore[arg-type]  # checked below
        if options.max_new_tokens is None:
            options = dataclasses.replace(options, max_new_tokens=_MAX_NEW_TOKENS)
        options._check_values()
        eos_ids = _ids(
            config, "eos_token_id", config.eos_token_id if options.eos_token_id is None else options.eos_token_id
        )
        suppressed: object = options.suppress_tokens
        if suppressed is None:
            special = {
                config.bos_token_id,
                config.pad_token_id,
                config.unk_token_id,
                config.mask_token_id,
                *SPECIAL_IDS,
            }
            suppressed = sorted(index for index in special - set(eos_ids) if index < config.vocab_size)
        options = dataclasses.replace(
            options, eos_token_id=eos_ids, suppress_tokens=_ids(config, "suppress_tokens", suppressed)
        )
        options._check_combinations(config)
        options._warn_of_unused()
        return options

    @property
    def new_tokens(self) -> int:
        """Maximum number of new tokens in a row. The options must come from ``checked``."""
        assert self.max_new_tokens is not None
        return self.max_new_tokens

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a row. The options must come from ``checked``."""
        assert isinstance(self.eos_token_id, tuple)
        return self.eos_token_id

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        """Ids that are never generated. The options must come from ``checked``."""
        assert isinstance(self.suppress_tokens, tuple)
        return self.suppress_tokens

    def row_seeds(self, rows: int) -> tuple[int, ...]:
        """Return one seed for each row of the result.

        Raises:
            InputError: The number of seeds is not ``rows``.
        """
        if isinstance(self.seed, Sequence):
            if len(self.seed) != rows:
                raise InputError(
                    "wrong number of seeds",
                    where="seed",
                    found=f"{len(self.seed)} seeds",
                    expected=f"one int, or {rows} ints: one for each row of the result",
                )
            return tuple(self.seed)
        first = int(torch.randint(2**63 - 1, ())) if self.seed is None else self.seed
        return (first, *(derived_seed(first, row) for row in range(1, rows)))

    def _check_values(self) -> None:
        seeds = self.seed if isinstance(self.seed, Sequence) else () if self.seed is None else (self.seed,)
        max_new_tokens = self.new_tokens if _is_int(self.max_new_tokens, 1) else _MAX_INT
        rules = [
            *(
                (name, _is_int(getattr(self, name), 1, most), f"a whole number from 1 to {most:,}")
                for name, most in _LARGEST_COUNTS.items()
            ),
            (
                "min_new_tokens",
                _is_int(self.min_new_tokens, 0, max_new_tokens),
                "a whole number from 0 to max_new_tokens",
            ),
            *((name, isinstance(getattr(self, name), bool), "True or False") for name in ("do_sample", "cuda_graphs")),
            (
                "early_stopping",
                isinstance(self.early_stopping, bool | str) and self.early_stopping in (True, False, "never"),
                "True, False or 'never'",
            ),
            # Beyond these bounds, float32 scores overflow.
            *(
                (name, _is_number(getattr(self, name), 1e-6, 1e6), "from 1e-6 to 1e6")
                for name in ("temperature", "repetition_penalty")
            ),
            ("top_k", self.top_k is None or _is_int(self.top_k, 0), "a whole number; 0 or None keeps all tokens"),
            ("top_p", self.top_p is None or (_is_number(self.top_p, 0, 1) and self.top_p > 0), "above 0, at most 1"),
            ("min_p", self.min_p is None or _is_number(self.min_p, 0, 1), "from 0 to 1"),
            ("length_penalty", _is_number(self.length_penalty, -100, 100), "from -100 to 100"),
            ("seed", all(_is_int(seed, 0) for seed in seeds), "from 0 to 2**63 - 1; one int, or one for each row"),
        ]
        wrong = [(name, getattr(self, name), rule) for name, holds, rule in rules if not holds]
        if wrong:
            raise InputError.of_values("invalid decoding options", wrong)

    def _check_combinations(self, config: XLMConfig) -> None:
        n, beams = self.num_return_sequences, self.num_beams
        if self.do_sample and beams > 1:
            raise InputError(
                "beam search cannot sample",
                where="do_sample, num_beams",
                found=f"do_sample = True, num_beams = {beams}",
                expected="either do_sample=True or num_beams above 1",
            )
        if not self.do_sample and n > beams:
            raise InputError(
                "num_return_sequences is larger than the number of beams",
                where="num_return_sequences",
                found=f"num_return_sequences = {n}, num_beams = {beams}",
                expected="at most num_beams, unless sampling",
                remedy="set do_sample=True, or increase num_beams",
            )
        free = config.vocab_size - len({*self.suppressed_ids, *self.eos_ids})
        if free < beams:
            raise InputError(
                "too few tokens are left to choose from",
                where="suppress_tokens, eos_token_id, num_beams",
                found=f"{free} tokens that are neither suppressed nor end a row",
                expected=f"at least num_beams = {beams}",
                remedy="suppress_tokens=() allows all tokens",
            )

    def _warn_of_unused(self) -> None:
        defaults = DecodingOptions()
        for used, condition, names in (
            (self.do_sample, "do_sample=True", ("temperature", "top_k", "top_p", "min_p")),
            (self.num_beams > 1, "num_beams above 1", ("length_penalty", "early_stopping")),
        ):
            changed = [name for name in names if getattr(self, name) != getattr(defaults, name)]
            if changed and not used:
                warn_caller(f"{', '.join(changed)}: has no effect without {condition}")


lists_decoding_options = lists_options(DecodingOptions)
"""Decorator for functions that take the options of decoding as keyword arguments."""


def derived_seed(seed: int, row: int) -> int:
    """Return the seed of a row, from 0 to 2**63 - 1; the seeds of neighbouring rows are unrelated."""
    digest = hashlib.blake2b(f"{seed} {row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _is_int(value: object, least: int, most: int = _MAX_INT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _ids(config: XLMConfig, name: str, ids: object) -> tuple[int, ...]:
    values = tuple(ids) if isinstance(ids, Sequence | set | frozenset | range) else (ids,)
    if not all(_is_int(value, 0, config.vocab_size - 1) for value in values):
        raise InputError(
            f"{name} is out of range", where=name, found=repr(ids), expected=f"ids from 0 to {config.vocab_size - 1}"
        )
    return values
