"""A model by its name, ready to compute: on which device, in which type, in which form."""

from __future__ import annotations

import torch

from xlm._io.arguments import shown
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.packed_linear import multiplies_bfloat16, multiplies_int8


def open_model(model: str, *, dtype: str, device: str) -> XLMWithLMHeadModel:
    """The model of a command line; ``made_fast`` makes of it what is computed with.

    Args:
        model: As for ``XLMWithLMHeadModel.from_pretrained``.
        dtype: One of its types, ``auto`` for what the file holds, or ``int8``, which ``made_fast`` makes.
        device: Where to compute.

    Raises:
        InputError: There is no such device, or it cannot compute in that type.
        CheckpointError: There is no such model.
    """
    check_device(dtype=dtype, device=device)
    check_presence(device)
    return XLMWithLMHeadModel.from_pretrained(model, dtype="float32" if dtype == "int8" else dtype, device=device)


def check_device(*, dtype: str, device: str) -> None:
    """Refuses a device that could not compute in a type, here or elsewhere.

    Raises:
        InputError: It is none to compute with, or it cannot compute in that type.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError, ValueError):
        kind = "none"
    if kind not in ("cpu", "cuda"):  # meta, say, computes nothing
        raise InputError(
            "there is no such device", where="device", found=shown(device), expected="cpu, or cuda where torch has it"
        )
    if not isinstance(dtype, str):
        raise InputError("no such type", where="dtype", found=shown(dtype), expected="the name of a type")
    if dtype == "int8" and kind != "cpu":
        raise InputError(
            "int8 is for the CPU", where="dtype, device", found=device, expected="cpu", remedy="the type bfloat16"
        )


def check_presence(device: torch.device | str) -> None:
    """Refuses a device that this machine does not have.

    Raises:
        InputError: With torch's own reason.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(
            "there is no such device",
            where="device",
            found=f"{device}: {str(error).partition(chr(10))[0]}",
            expected="cpu, or cuda where torch has it",
        ) from error


def made_fast(network: XLMWithLMHeadModel, *, dtype: str, few_rows: bool) -> XLMWithLMHeadModel:
    """The same model in the form that computes fastest: on a CPU, its matrices are packed.

    Args:
        network: What ``open_model`` returned.
        dtype: As for ``open_model``.
        few_rows: Whether it is to work on few tokens at a time, where packing pays in float32 too.
    """
    weights = str(network.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    if network.device.type != "cpu" or (weights == "float32" and not few_rows):
        return network
    return network.for_inference(weights)


def processor_of(device: torch.device) -> str:
    """What computes there, as far as digits depend on it: another adds up in another order, or rounds otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    int8, bfloat16 = " int8" * multiplies_int8(), " bfloat16" * multiplies_bfloat16()
    return f"{torch.backends.cpu.get_cpu_capability()}{int8}{bfloat16}"
