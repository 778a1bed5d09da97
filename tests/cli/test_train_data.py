"""``xlm learn-bpe`` and ``xlm prepare``.

Oracle: the library, called directly; fastBPE for codes that it reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.tokenizer.small import TEXT
from xlm.data.shards import Index, ShardSequence
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("\n".join(TEXT.split(". ")) + "\n", "utf-8")
    return path


def test_from_raw_text_to_ids(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    codes, vocab, data = tmp_path / "codes", tmp_path / "vocab", tmp_path / "data"
    learning = ["learn-bpe", "--merges", "40", "--codes", codes, "--vocab", vocab]
    run = invoke(*learning, "--preset", "original", f"de={text}", f"en={text}")
    assert run.exit_code == 0, run.output
    assert "40 merges" in run.stdout
    preparing = ["prepare", data, "--codes", codes, "--vocab", vocab]
    for _ in range(2):  # the second finds everything done
        run = invoke(*preparing, "--train", f"en={text}", "--train", f"de={text}", "--valid", f"en={text}")
        assert run.exit_code == 0, run.output
        assert "train en" in run.stdout
    run = invoke(*preparing, "--test", f"de={text}")  # a text more, of a language that is there
    assert run.exit_code == 0, run.output
    run = invoke(*preparing, "--train", f"cs={text}")
    assert run.exit_code == 1
    assert "another tokenizer" in run.stderr
    tokenizer = XLMTokenizer.from_codes(codes, vocab, lang2id={"de": 0, "en": 1})
    index = Index.read(data)
    sequence = ShardSequence(data, index.splits["train"]["de"].shards, dtype=index.dtype, vocab_size=index.vocab_size)
    lines = text.read_text("utf-8").splitlines()
    expected = [i for line in lines for i in [*tokenizer.encode(line, lang="de", add_special_tokens=False), 1]]
    assert sequence.slice(0, len(sequence)).tolist() == expected
    assert XLMTokenizer.from_pretrained(data / "tokenizer").lang2id == {"de": 0, "en": 1}


def test_a_vocabulary_is_read_as_the_original_reads_it(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    codes, vocab, data = tmp_path / "codes", tmp_path / "vocab", tmp_path / "data"
    invoke("learn-bpe", "--merges", "40", "--codes", codes, "--vocab", vocab, "--preset", "original", f"en={text}")
    size = 14 + vocab.read_bytes().count(b"\n")
    vocab.write_bytes(b"".join(b"<special%d> 999\n" % i for i in range(10)) + b"\xc2\xa0 998\n" + vocab.read_bytes())
    run = invoke("prepare", data, "--codes", codes, "--vocab", vocab, "--train", f"en={text}")
    assert run.exit_code == 0, run.output
    assert run.stderr.count("warning: ") == 1
    assert f"{vocab}: 11 of {size - 14 + 11} lines are skipped" in run.stderr
    assert Index.read(data).vocab_size == size


def test_divided_text_needs_no_language(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    run = invoke("learn-bpe", "--merges", "5", "--codes", tmp_path / "codes", text, text)
    assert run.exit_code == 0, run.output
    fast = pytest.importorskip("fastBPE").fastBPE(str(tmp_path / "codes"), "")
    assert fast.apply(["hund running"])
    run = invoke("learn-bpe", "--merges", "5000", "--codes", tmp_path / "codes", text)
    assert run.exit_code == 0, run.output
    assert "of 5,000 merges, as every word is one piece" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["learn-bpe", "--merges", "5", "--codes", "c", "--preset", "original", "text"], "not LANG=FILE"),
        (["learn-bpe", "--merges", "5", "--codes", "c", "en=text"], "LANG=FILE requires --preset"),
        (["learn-bpe", "--merges", "0", "--codes", "c", "text"], "not in the range"),
        (["prepare", "data", "--train", "en=text"], "--model, or --codes"),
        (["prepare", "data", "--model", "m"], "at least one text"),
        (["prepare", "data", "--model", "m", "--train", "en=a", "--train", "en=b"], "given twice"),
    ],
)
def test_wrong_usage(invoke: Invoke, arguments: list[str], says: str) -> None:
    run = invoke(*arguments)
    assert run.exit_code == 2
    assert says in run.stderr


@pytest.mark.parametrize("flag", ["--codes", "--vocab"])
def test_a_text_is_not_overwritten(invoke: Invoke, text: Path, tmp_path: Path, flag: str) -> None:
    before = text.read_bytes()
    targets = {"--codes": tmp_path / "codes", "--vocab": tmp_path / "vocab"} | {flag: text}
    arguments = [word for pair in targets.items() for word in pair]
    run = invoke("learn-bpe", "--merges", "5", *arguments, text)
    assert run.exit_code == 2
    assert f"{flag} {text} would overwrite an input" in run.stderr
    assert text.read_bytes() == before


def test_codes_and_vocabulary_are_two_files(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    run = invoke("learn-bpe", "--merges", "5", "--codes", tmp_path / "one", "--vocab", tmp_path / "one", text)
    assert run.exit_code == 2
    assert "name the same file" in run.stderr


def test_another_vocabulary(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    for name, merges in (("one", 10), ("two", 20)):
        learning = ["learn-bpe", "--merges", merges, "--codes", tmp_path / name, "--vocab", tmp_path / f"{name}.vocab"]
        assert invoke(*learning, text).exit_code == 0
    preparing = ["prepare", tmp_path / "data", "--train", f"en={text}"]
    assert invoke(*preparing, "--codes", tmp_path / "one", "--vocab", tmp_path / "one.vocab").exit_code == 0
    run = invoke(*preparing, "--codes", tmp_path / "two", "--vocab", tmp_path / "two.vocab")
    assert run.exit_code == 1
    assert "another tokenizer" in run.stderr
