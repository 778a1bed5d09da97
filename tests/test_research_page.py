"""The loop on many GPUs of docs/research.md, on two CPUs. Oracle: the model that it saves, opened and used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.documents import blocks_of
from xlm import XLMWithLMHeadModel


@pytest.mark.slow
def test_the_loop_runs_in_two_processes(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "research.md").read_text(encoding="utf-8")
    (loop,) = [block.code for block in blocks_of(page) if "fully_shard" in block.code]
    (tmp_path / "loop.py").write_text(loop, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "loop.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model: Any = XLMWithLMHeadModel.from_pretrained(tmp_path / "sharded")
    ids = torch.arange(14, 30)[None]
    loss = model(ids, langs=0, labels=ids).loss.item()
    assert 3 < loss < 9  # log(500) is 6.2
