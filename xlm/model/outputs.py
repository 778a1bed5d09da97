"""Outputs of the models.

Shapes: B batch, T positions, S positions including those of the cache, N heads, L layers, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from xlm.errors import InputError
from xlm.model.cache import XLMCache
from xlm.model.pytrees import register_pytree


class OutputIndexError(InputError, KeyError, IndexError):
    """Error for a name or index that an output does not have."""


class Output:
    """Base of the outputs: indexable by name, or as a tuple of the fields that are not ``None``.

    Outputs are pytrees of torch, whose leaves are in these fields.
    """

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields that are not ``None``, in order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not ``None``, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.keys()

    def __getitem__(self, index: str | int | slice) -> Any:
        if isinstance(index, str) and index in self.keys():
            return getattr(self, index)
        try:
            return self.to_tuple()[index]  # type: ignore[index]  # an unknown name raises TypeError
        except (IndexError, TypeError) as error:
            raise OutputIndexError(
                "the output has no such entry",
                where=type(self).__name__,
                found=repr(index),
                expected=", ".join(self.keys()),
            ) from error


@register_pytree
@dataclass(frozen=True, kw_only=True, slots=True)
class XLMModelOutput(Output):
    """Output of ``XLMModel``; indexable by name, or as a tuple of the fields that are not ``None``.

    Attributes:
        last_hidden_state: (B, T, D) output of the last layer; zero at padding.
        hidden_states: The embeddings and each layer's output, L + 1 tensors (B, T, D), if requested.
        attentions: Each layer's attention weights, L tensors (B, N, T, S), if requested.
        cache: The cache that was passed in, extended by the new tokens.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cache: XLMCache | None = None


@register_pytree
@dataclass(frozen=True, kw_only=True, slots=True)
class XLMOutput(Output):
    """Output of ``XLMWithLMHeadModel``; indexable by name, or as a tuple of the fields that are not ``None``.

    Attributes:
        loss: Mean negative log-probability of the labels that are not ignored, in nats; a scalar. ``None`` without
            labels. With another ``reduction``, their sum, or (B, T) losses.
        logits: (B, T, V) scores of the next token; log-probabilities if the head is an adaptive softmax. ``None`` with
            ``return_logits=False``.
        hidden_states: The embeddings and each layer's output, L + 1 tensors (B, T, D), if requested.
        attentions: Each layer's attention weights, L tensors (B, N, T, S), if requested.
        cache: The cache that was passed in, extended by the new tokens.
    """

    loss: Tensor | None = None
    # Only callers that ask for no logits get None. Others need no assertion for their type checker.
    logits: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cache: XLMCache | None = None
