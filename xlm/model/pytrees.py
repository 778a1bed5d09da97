"""Dataclasses that torch's pytrees know: FSDP2, ``torch.func`` and ``torch.export`` find the tensors in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from torch.utils import _pytree as pytree

_Dataclass = TypeVar("_Dataclass", bound=type)


def register_pytree(cls: _Dataclass) -> _Dataclass:
    """Register a dataclass as a pytree whose leaves are its fields that are not ``None``; for use as a decorator."""

    def present(instance: Any) -> list[tuple[str, Any]]:
        values = ((f.name, getattr(instance, f.name)) for f in fields(cls))
        return [(name, value) for name, value in values if value is not None]

    def flatten(instance: Any) -> tuple[list[Any], tuple[str, ...]]:
        items = present(instance)
        return [value for _, value in items], tuple(name for name, _ in items)

    def flatten_with_keys(instance: Any) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        items = present(instance)
        return [(pytree.GetAttrKey(name), value) for name, value in items], tuple(name for name, _ in items)

    def unflatten(values: Iterable[Any], names: Any) -> Any:
        return cls(**dict(zip(names, values, strict=True)))

    # Torch's public equivalent, torch.export.register_dataclass, imports its compiler, which takes seconds.
    pytree.register_pytree_node(
        cls,
        flatten,
        unflatten,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        to_dumpable_context=list,
        from_dumpable_context=tuple,
        flatten_with_keys_fn=flatten_with_keys,
    )
    return cls
