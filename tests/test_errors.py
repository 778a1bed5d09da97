"""Messages of errors, which quote names and values of files from strangers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoint.original_files import spoilt
from xlm import XLMWithLMHeadModel
from xlm.errors import CheckpointError, InputError


def test_a_name_in_a_file_sends_nothing_to_the_terminal(tmp_path: Path) -> None:
    path = spoilt(tmp_path, lambda data: data["model"].update({"\x1b]0;title\x07\ud800": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="extra: ") as caught:
        XLMWithLMHeadModel.from_pretrained(path)
    text = str(caught.value)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert r"\x1b]0;title\x07\ud800" in text


def test_a_name_without_end_is_cut(tmp_path: Path) -> None:
    path = spoilt(tmp_path, lambda data: data["model"].update({"x" * (1 << 20): torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="extra: xxx") as caught:
        XLMWithLMHeadModel.from_pretrained(path)
    assert len(str(caught.value)) < 20_000


def test_other_letters_and_lines_stay_as_they_are() -> None:
    error = InputError("wrong", where="Wörter.txt, 第1行", found="a\n    b")
    assert str(error) == "Wrong\n  where: Wörter.txt, 第1行\n  found: a\n    b"


def test_the_name_of_an_argument_keeps_its_case() -> None:
    assert str(InputError("attention_mask has other values")) == "attention_mask has other values"
    assert str(InputError("the mask has other values")) == "The mask has other values"
