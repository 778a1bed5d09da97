"""Check that a model is what its configuration says, without adapters, hooks or foreign layers."""

from __future__ import annotations

import inspect

from torch import nn
from torch.nn.modules import module as torch_module

from xlm.errors import InputError

_LISTED = 4
_COMPUTING = {"__call__", "__getattr__", "__getattribute__"}
_NOT_COMPUTING = {"extra_repr", "check_inputs", "from_pretrained"}


def check_plain(model: nn.Module, plain: nn.Module) -> None:
    """Check that a model has the modules of another one, apart from the values of the weights.

    Subclasses that override nothing are allowed.

    Args:
        model: Model to check.
        plain: A new model of the same configuration; may be on the meta device.

    Raises:
        InputError: Modules differ or have hooks; the message names them.
    """
    problems = _problems(model, plain)
    if not problems:
        return
    shown = [f"{path or 'the model itself'}: {text}" for path, text in problems.items()][:_LISTED]
    more = len(problems) - len(shown)
    raise InputError(
        "the model cannot be packed: it does not consist of plain layers",
        where=", ".join(path or type(model).__name__ for path in list(problems)[:_LISTED]),
        found="; ".join(shown) + (f"; and {more} more" if more else ""),
        expected="the layers that the configuration makes, without hooks, adapters or overridden methods",
        remedy="merge adapters (merge_and_unload()) and remove hooks and parametrizations, or use the model as it is",
    )


def _problems(model: nn.Module, plain: nn.Module) -> dict[str, str]:
    """Return what is wrong by path of the module, without what is inside such a module."""
    expected = dict(plain.named_modules(remove_duplicate=False))
    actual = dict(model.named_modules(remove_duplicate=False))
    problems: dict[str, str] = {}
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        problems["torch.nn"] = "global forward hooks"
    for path, module in actual.items():
        if not _inside(path, problems):
            text = _difference(module, expected[path]) if path in expected else f"an additional {_name(module)}"
            problems |= {path: text} if text else {}
    missing = [path for path in expected if path not in actual and not _inside(path, problems)]
    return problems | {path: "missing" for path in missing if not _inside(path, missing)}


def _inside(path: str, others: dict[str, str] | list[str]) -> bool:
    return any(other and path.startswith(f"{other}.") for other in others)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _difference(module: nn.Module, plain: nn.Module) -> str:
    """Return in what a module differs from a plain one; an empty string if in nothing."""
    base = type(plain)
    if not isinstance(module, base):
        return f"{_name(module)} in place of {base.__name__}"
    if overridden := _overridden(type(module), base):
        return f"{_name(module)}, which overrides {', '.join(overridden)}"
    if patched := [name for name in vars(module) if callable(getattr(base, name, None))]:
        return f"{_name(module)} with its own {', '.join(patched)}"
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks:
        names = (getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks)
        return f"{_name(module)} with forward hooks ({', '.join(names)})"
    weights, plain_weights = ([n for n, w in m._parameters.items() if w is not None] for m in (module, plain))
    if weights != plain_weights:
        return f"{_name(module)} with the weights {weights} in place of {plain_weights}"
    if foreign := {type(w).__name__ for w in module.parameters(recurse=False)} - {"Parameter"}:
        return f"{_name(module)} with weights of type {', '.join(foreign)}"
    return ""


def _overridden(cls: type, base: type) -> list[str]:
    """Return the names of a base class that a subclass overrides, except those that do not affect results."""
    return [
        name
        for name in (dir(base) if cls is not base else ())
        if (name in _COMPUTING or not name.startswith("__"))
        and name not in _NOT_COMPUTING
        and inspect.getattr_static(cls, name) is not inspect.getattr_static(base, name)
    ]
