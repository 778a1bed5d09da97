"""Memory of large results. Oracle: ordinary tensors, and what the kernel says of the process's memory."""

from __future__ import annotations

import gc
import mmap
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from xlm.model.large_result import empty_result
from xlm.model.packed_linear import Float16Linear, Float32Linear, _has_fbgemm

LARGE = (1040, 8200)  # 34 MB
SMALL = (2, 8200)
STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes of this process that are in memory."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("shape", [LARGE, SMALL, (0, 3), (3, 4, 5)], ids=str)
def test_it_is_a_tensor_like_others(shape: tuple[int, ...]) -> None:
    made = empty_result(*shape)
    assert (made.shape, made.dtype, made.device.type) == (shape, torch.float32, "cpu")
    assert made.is_contiguous()
    numbers = torch.randn(shape)
    made.copy_(numbers)
    assert torch.equal(made, numbers)
    assert torch.equal(made.add_(1), numbers + 1)
    assert torch.equal(pickle.loads(pickle.dumps(made)), numbers + 1)


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not say")
def test_its_memory_goes_with_it_and_not_before() -> None:
    part = empty_result(*LARGE).fill_(1)[:1]
    gc.collect()
    assert torch.equal(part, torch.ones(1, LARGE[1]))
    before = resident()
    del part
    gc.collect()
    # Most of 34 MB; the rest is what else this process does meanwhile.
    assert before - resident() > 25_000_000


@pytest.mark.parametrize("kind", ["no such name", "refused"])
def test_without_huge_pages_it_is_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "no such name":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1, raising=False)  # which the kernel does not know
    assert empty_result(*LARGE).fill_(2).shape == LARGE


@pytest.mark.parametrize(
    "packed",
    [
        Float32Linear,
        pytest.param(Float16Linear, marks=pytest.mark.skipif(not _has_fbgemm(), reason="torch has no FBGEMM kernels")),
    ],
)
@torch.no_grad()
def test_a_large_product_is_whole(packed: Callable[..., nn.Module]) -> None:
    rows, width = LARGE
    linear = nn.Linear(4, width)
    linear.weight.copy_(linear.weight.half())
    x = torch.randn(4, rows // 4, 4)
    # Four products a sum: an order of them moves float32's last digits.
    torch.testing.assert_close(packed(linear.weight, linear.bias)(x), linear(x), rtol=0, atol=1e-6)
