"""Where the models of a benchmark compute, and in which form."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from xlm.model.opening import check_device, check_presence


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A device, with what is compared on it.

    Attributes:
        device: Where both libraries compute.
        packed: Ours are packed by ``for_inference``, in several types, beside a peer in float32, as on a CPU. Otherwise
            both libraries' models stay as they are, in bfloat16, as on a GPU.
    """

    device: torch.device
    packed: bool

    @property
    def loaded_type(self) -> str:
        """Type that both libraries' weights are loaded in, and the peer computes in."""
        return "float32" if self.packed else "bfloat16"

    def named(self, peer: str | None) -> str | None:
        """What a peer is called in a report: with its type, unless that is float32 as ever."""
        return peer if self.packed or peer is None else f"{peer} {self.loaded_type}"


CPU = Place(device=torch.device("cpu"), packed=True)


def place_of(device: str) -> Place:
    """The place for a device of a command line.

    Raises:
        InputError: There is no such device.
    """
    check_device(dtype="bfloat16", device=device)
    check_presence(device)
    found = torch.device(device)
    return CPU if found.type == "cpu" else Place(device=found, packed=False)
