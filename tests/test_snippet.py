"""The snippet of the model card. Oracle: CONTRACT.md and README.md, word for word, and live transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.demo_files import write_demo_files
from xlm.checkpoint.convert import convert

SNIPPET = """\
import torch
from xlm import XLMTokenizer, XLMWithLMHeadModel          # the one line of the published model card that changes

tokenizer = XLMTokenizer.from_pretrained("xlm-clm-ende-1024")
model = XLMWithLMHeadModel.from_pretrained("xlm-clm-ende-1024")
input_ids = torch.tensor([tokenizer.encode("Wikipedia was used to")])
language_id = tokenizer.lang2id["en"]
langs = torch.tensor([language_id] * input_ids.shape[1]).view(1, -1)
outputs = model(input_ids, langs=langs)                    # outputs.logits, outputs[0]: (1, T, V)
"""
CHECKS = """
assert outputs.logits.shape == (1, input_ids.shape[1], tokenizer.vocab_size)
assert outputs[0] is outputs.logits
assert input_ids[0, 0] == input_ids[0, -1] == 1
print(input_ids.tolist()[0])
"""


def run(directory: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_prints_it() -> None:
    assert SNIPPET in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_on_a_converted_directory(tmp_path: Path) -> None:
    write_demo_files(tmp_path)
    convert(tmp_path / "demo.pth", tmp_path / "xlm-clm-ende-1024", codes=tmp_path / "codes")
    run(tmp_path, SNIPPET + CHECKS)


def test_on_the_trained_checkpoint(reference: Path, tmp_path: Path) -> None:
    """With the published codes and vocabulary, the text has four cased tokens (FACTS.md)."""
    source = reference / "checkpoints" / "clm_ende_multi30k" / "clm_ende_multi30k.pth"
    convert(source, tmp_path / "xlm-clm-ende-1024", codes=reference / "published" / "codes_ende")
    printed = run(tmp_path, SNIPPET + CHECKS)
    assert len(printed.split(",")) == 2 + 4


def test_with_transformers_import_instead(tmp_path: Path) -> None:
    """Only the import changes: with that of transformers, the rest runs on the same directory."""
    pytest.importorskip("transformers")
    write_demo_files(tmp_path)
    convert(tmp_path / "demo.pth", tmp_path / "xlm-clm-ende-1024", codes=tmp_path / "codes")
    code = SNIPPET.replace("from xlm import", "from transformers import")
    assert code != SNIPPET
    done = subprocess.run(
        [sys.executable, "-c", code + "print(input_ids.tolist()[0])"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == run(tmp_path, SNIPPET + CHECKS).splitlines()[-1]
