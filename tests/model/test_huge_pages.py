"""Large results. Oracle: what the kernel says of the memory they are in; the plain product."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xlm.model.huge_pages import in_huge_pages
from xlm.model.packed_linear import Float16Linear, Float32Linear, _has_fbgemm

LARGE = (1040, 8200)  # 34 MB
MAPS = Path("/proc/self/smaps")


def advised(tensor: Tensor) -> bool:
    """Whether huge pages were asked for in the middle of a tensor."""
    place = tensor.data_ptr() + tensor.nbytes // 2
    mappings = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags:(.*?)$", MAPS.read_text(), re.MULTILINE | re.DOTALL)
    [flags] = [flags for first, last, flags in mappings if int(first, 16) <= place < int(last, 16)]
    return "hg" in flags.split()


needs_flags = pytest.mark.skipif(
    not (MAPS.exists() and "VmFlags" in MAPS.read_text() and Path("/sys/kernel/mm/transparent_hugepage").exists()),
    reason="the system has no huge pages, or does not say",
)


@needs_flags
def test_huge_pages_are_asked_for_where_it_is_large() -> None:
    result = torch.empty(LARGE)
    assert in_huge_pages(result) is result
    assert advised(result)
    ordinary = torch.empty(LARGE)
    assert not advised(ordinary)


def test_the_numbers_of_its_neighbours_stay() -> None:
    memory = torch.arange(20_000_000)
    in_huge_pages(memory[1_000_001:-1_000_001])
    assert torch.equal(memory, torch.arange(20_000_000))


@pytest.mark.parametrize("kind", ["another system", "refused"])
def test_without_huge_pages_it_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def __init__(self, _: None) -> None:
            assert kind == "refused"

        def madvise(self, *_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", Libc)
    if kind == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    assert torch.equal(in_huge_pages(torch.ones(LARGE)), torch.ones(LARGE))


@pytest.mark.parametrize(
    "packed",
    [
        Float32Linear,
        pytest.param(Float16Linear, marks=pytest.mark.skipif(not _has_fbgemm(), reason="torch has no FBGEMM kernels")),
    ],
)
@needs_flags
@torch.no_grad()
def test_a_large_product_is_whole_and_in_huge_pages(packed: Callable[..., nn.Module]) -> None:
    rows, width = LARGE
    generator = torch.Generator().manual_seed(0)
    weight_MK, bias_M, x = (torch.randn(*shape, generator=generator) for shape in ((width, 4), (width,), (rows, 4)))
    found = packed(weight_MK := weight_MK.half().float(), bias_M)(x.view(4, rows // 4, 4))
    assert advised(found)
    # Five numbers a sum: an order of them moves float32's last digits.
    torch.testing.assert_close(found.view(LARGE), x @ weight_MK.T + bias_M, rtol=0, atol=1e-5)
