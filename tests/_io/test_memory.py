"""Memory that is given back to the system, or kept, by glibc and oneDNN.

Oracle: the kernel's own count of the process's resident memory; and a process that pretends to grow.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from xlm._io import memory
from xlm._io.memory import MallocTrim

MB = 1024 * 1024
NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")
HELD = """
from xlm._io.memory import MallocTrim, _resident_bytes
watched = MallocTrim()
before = _resident_bytes()
blocks = [bytes([1]) * 1_000_000 for _ in range(100)]
del blocks
held = _resident_bytes()
watched.trim_if_grown()
print(held - before, _resident_bytes() - before)
"""
KEPT = """
import resource, sys
from xlm._io.memory import _resident_bytes, keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
before = _resident_bytes()
block = bytearray(b"x") * 200_000_000
del block
kept = _resident_bytes() - before
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(b"x") * 200_000_000
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""
SHAPES = """
import sys, torch
from xlm._io.memory import _resident_bytes, limit_onednn_cache
if sys.argv[1:]:
    limit_onednn_cache()
multiply, weight = torch.ops.mkldnn._linear_pointwise, torch.ones(64, 64)
before = _resident_bytes()
for rows in range(1, 401):
    multiply(torch.ones(rows, 64), weight, None, "none", [], "")
print(_resident_bytes() - before)
"""


@pytest.mark.skipif(memory.find_malloc_trim() is None, reason="only glibc has the call")
def test_what_was_freed_goes_back_to_the_system() -> None:
    """Told to map nothing by itself and to return nothing by itself, glibc keeps all that is freed."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
    command = [sys.executable, "-c", HELD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 90_000_000
    assert left < 10_000_000


def test_only_when_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [100 * MB]
    calls: list[int] = []
    monkeypatch.setattr(memory, "find_malloc_trim", lambda: calls.append)
    monkeypatch.setattr(memory, "_resident_bytes", lambda: resident[0])
    watched = MallocTrim()
    for now, expected in ((100, 0), (164, 0), (165, 1), (229, 1), (230, 2), (10, 2)):
        resident[0] = now * MB
        watched.trim_if_grown()
        assert len(calls) == expected, now


def test_without_glibc_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find_malloc_trim", lambda: None)
    monkeypatch.delattr(memory, "_resident_bytes")
    MallocTrim().trim_if_grown()


@pytest.mark.skipif(memory.find_malloc_trim() is None, reason="only glibc has the call")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_only_if_asked(keep: bool) -> None:
    """A block of 200 MB, which glibc by default maps by itself and unmaps when it is freed."""
    command = [sys.executable, "-c", KEPT, *(["keep"] if keep else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    assert (kept > 190_000_000) == keep
    assert (faults < 1000) == keep


def test_a_system_without_glibc_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "find_malloc_trim", lambda: None)
    monkeypatch.delattr(memory, "ctypes")
    memory.keep_freed_memory()


@pytest.mark.skipif(memory.find_malloc_trim() is None, reason="the growth is read from /proc")
@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN")
def test_products_of_many_shapes_are_not_all_held() -> None:
    """400 shapes: by default, oneDNN holds them all; half of what it holds is outside this cache."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    grown = []
    for arguments in ([], ["limit"]):
        command = [sys.executable, "-c", SHAPES, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        grown.append(int(done.stdout))
    assert grown[1] < 0.75 * grown[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_of_the_user_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in NAMES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "7")
    memory.limit_onednn_cache()
    assert {each: os.environ[each] for each in NAMES if each in os.environ} == {name: "7"}
