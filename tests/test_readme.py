"""The README's commands and snippets, run as printed. Oracle: exit status 0, and the files they write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.documents import README, blocks_of, commands_of, prepare, run_page
from xlm import XLMTokenizer, XLMWithLMHeadModel, score

TEXT = README.read_text(encoding="utf-8")


def test_commands_and_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    assert sum(len(commands_of(block)) for block in blocks_of(TEXT) if block.language == "bash") >= 6
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = run_page(TEXT)
    assert (tmp_path / "again.pth").is_file()
    snippets = [output for block, output in printed.items() if block.language == "python" and "print(" in block.code]
    assert len(snippets) == 2
    assert all(output.strip() for output in snippets)


def test_links_inside_the_repository() -> None:
    for name in ("CITATION.cff", "constraints.txt", "xlm/parity/__init__.py"):
        assert name in TEXT
        assert (REPOSITORY / name).is_file()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (REPOSITORY / target).exists(), target


def test_scores_that_it_shows() -> None:
    shown = re.findall(
        r'echo "(.+)" \| xlm score (\S+) --lang (\w+) --by sentence\n```\n\n<!-- output -->\n```text\n'
        r".*\n *1\s+(\d+)\s+(-[\d.]+)\s",
        TEXT,
    )
    assert len(shown) == 2
    for sentence, name, lang, tokens, logprob in shown:
        model, tokenizer = XLMWithLMHeadModel.from_pretrained(name), XLMTokenizer.from_pretrained(name)
        [result] = score(model, tokenizer, [sentence], lang=lang)
        assert len(result.logprobs) == int(tokens)
        # The order of summation depends on the processor.
        assert result.logprob == pytest.approx(float(logprob), abs=1e-3)
