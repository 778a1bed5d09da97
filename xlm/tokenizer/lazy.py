"""An attribute that is computed when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class lazy(Generic[T]):  # noqa: N801 (a decorator, as property is)
    """An attribute whose value is computed when it is first read: ``functools.cached_property`` without a lock.

    Up to Python 3.11, ``cached_property`` holds a lock during the computation. A worker process that is forked
    meanwhile would wait for this lock forever. Without a lock, two threads may both compute the value.

    Args:
        compute: Returns the value, given the object.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        assert instance is not None
        value = self.compute(instance)
        instance.__dict__[self.compute.__name__] = value  # found before this object from now on
        return value
