"""The data that sacremoses carries, without sacremoses itself: importing that takes longer than encoding many texts."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from importlib.machinery import PathFinder
from types import ModuleType

from xlm.errors import DependencyError


@lru_cache(maxsize=8)
def data_module(name: str) -> ModuleType:
    """Returns a module of sacremoses that imports no other, run without the package it stands in.

    Raises:
        DependencyError: sacremoses is not installed, or not in a version that has the module.
    """
    package = importlib.util.find_spec("sacremoses")
    places = None if package is None else package.submodule_search_locations
    spec = None if places is None else PathFinder.find_spec(f"sacremoses.{name}", places)
    if spec is None or spec.loader is None:
        raise DependencyError(
            "The data of Moses' rules is missing",
            where="sacremoses",
            found="not installed" if package is None else f"a version without {name}",
            expected="sacremoses 0.2",
            remedy="pip install 'sacremoses>=0.2,<0.3'",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
