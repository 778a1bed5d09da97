"""Opening a model by name, on a device and in its fastest form for inference."""

from __future__ import annotations

from typing import TypeVar

import torch

from xlm._io.arguments import shown
from xlm.errors import InputError
from xlm.inference.packed_linear import multiplies_bfloat16, multiplies_int8
from xlm.model.linear import onednn_is_faster
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel

Network = TypeVar("Network", XLMWithLMHeadModel, XLMEncoderDecoderModel)


def open_model(model: str, *, kind: type[Network], dtype: str, device: str) -> Network:
    """Open a model without packing it; ``pack_where_faster`` packs it.

    Args:
        model: Name or path, as for ``from_pretrained``.
        kind: Class of the model.
        dtype: Type of the weights: ``float32``, ``float16``, ``bfloat16``, ``auto`` (the type in the file), or ``int8``
            (the conversion then happens in ``pack_where_faster``).
        device: Device to compute on.

    Raises:
        InputError: The device does not exist, or cannot compute in that type.
        CheckpointError: The model cannot be opened.
    """
    check_device(dtype=dtype, device=device)
    return kind.from_pretrained(model, dtype="float32" if dtype == "int8" else dtype, device=device)


def check_device(*, dtype: str, device: str) -> None:
    """Raise ``InputError`` if a device is unknown, or cannot compute in a type.

    The device need not exist on this machine, so that arguments for another machine can be checked.
    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError, ValueError):
        kind = "none"
    if kind not in ("cpu", "cuda"):  # torch has other devices, such as meta, which computes nothing
        raise InputError(
            "no such device", where="device", found=shown(device), expected="cpu, or cuda if torch supports it"
        )
    if not isinstance(dtype, str):
        raise InputError(
            "no such type of weights",
            where="dtype",
            found=shown(dtype),
            expected="the name of a type, such as bfloat16",
        )
    if dtype == "int8" and kind != "cpu":
        raise InputError(
            "int8 runs on the CPU only", where="dtype, device", found=device, expected="cpu", remedy="use bfloat16"
        )


def pack_where_faster(model: Network, *, dtype: str, few_rows: bool) -> Network:
    """Return a model in its fastest form: packed on a CPU, unchanged elsewhere.

    Args:
        model: The result of ``open_model``.
        dtype: As for ``open_model``.
        few_rows: Whether the model will compute on few tokens at a time. Packing is then worthwhile in float32 too.

    Raises:
        InputError: The model cannot be packed.
    """
    weights = str(model.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    if model.device.type != "cpu" or (weights == "float32" and not few_rows):
        return model
    return model.for_inference(weights)


def load_for_inference(model: str, *, dtype: str, device: str, few_rows: bool) -> XLMWithLMHeadModel:
    """Open a language model and return it in its fastest form.

    Arguments and errors are those of ``open_model`` and ``pack_where_faster``.
    """
    network = open_model(model, kind=XLMWithLMHeadModel, dtype=dtype, device=device)
    return pack_where_faster(network, dtype=dtype, few_rows=few_rows)


def processor_name(device: torch.device) -> str:
    """Return the name of a device's processor, with every property that affects the last digits of results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    int8, bfloat16 = " int8" * multiplies_int8(), " bfloat16" * multiplies_bfloat16()
    onednn = " oneDNN" * onednn_is_faster()
    return f"{torch.backends.cpu.get_cpu_capability()}{int8}{bfloat16}{onednn}"
