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


def test_pairs_of_parallel_files(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    codes, vocab, data, other = tmp_path / "codes", tmp_path / "vocab", tmp_path / "data", tmp_path / "other"
    lines = text.read_text("utf-8").splitlines()
    other.write_text("\n".join(["", *lines[:0:-1]]) + "\n", "utf-8")
    invoke("learn-bpe", "--merges", "40", "--codes", codes, "--vocab", vocab, "--preset", "original", f"en={text}")
    preparing = ["prepare", data, "--codes", codes, "--vocab", vocab]
    run = invoke(
        *preparing, "--train", f"de={text}", "--train", f"en-de={other},{text}", "--valid", f"de-en={text},{other}"
    )
    assert run.exit_code == 0, run.output
    index = Index.read(data)
    assert set(index.splits["train"]) == {"de", "de-en.de", "de-en.en"}
    assert set(index.splits["valid"]) == {"de-en.de", "de-en.en"}
    for split in ("train", "valid"):
        assert index.splits[split]["de-en.en"].source.path == str(other)
        assert index.splits[split]["de-en.de"].source.path == str(text)
    printed = {line.partition(":")[0]: line for line in run.stdout.splitlines()}
    assert list(printed) == ["train de", "train de-en.en", "train de-en.de", "valid de-en.de", "valid de-en.en"]
    assert printed["train de-en.en"].endswith(" 1 empty")
    assert printed["train de-en.de"].endswith(" 0 empty")
    assert XLMTokenizer.from_pretrained(data / "tokenizer").lang2id == {"de": 0, "en": 1}
    ids = {
        name: ShardSequence(data, index.splits["train"][name].shards, dtype="uint16", vocab_size=index.vocab_size)
        for name in ("de", "de-en.de")
    }
    assert ids["de"].slice(0, len(ids["de"])).tolist() == ids["de-en.de"].slice(0, len(ids["de-en.de"])).tolist()
    other.write_text("one line more\n" * (len(lines) + 1), "utf-8")
    run = invoke("prepare", tmp_path / "again", *preparing[2:], "--train", f"de-en={text},{other}")
    assert run.exit_code == 1
    assert "the files of pairs are not parallel" in run.stderr.lower()
    assert f"{len(lines):,} lines of de, {len(lines) + 1:,} lines of en" in run.stderr
    known = ["prepare", tmp_path / "model", "--model", data / "tokenizer"]
    run = invoke(*known, "--train", f"de-fr={text},{text}")
    assert run.exit_code == 1
    assert "'fr'" in run.stderr


def test_a_hyphen_or_a_comma_alone_makes_no_pair(invoke: Invoke, text: Path, tmp_path: Path) -> None:
    comma = tmp_path / "a,b"
    comma.write_bytes(text.read_bytes())
    codes, vocab = tmp_path / "codes", tmp_path / "vocab"
    invoke("learn-bpe", "--merges", "40", "--codes", codes, "--vocab", vocab, "--preset", "original", f"en={text}")
    options = ["--codes", codes, "--vocab", vocab, "--train", f"zh-classical={text}", "--train", f"en={comma}"]
    run = invoke("prepare", tmp_path / "data", *options)
    assert run.exit_code == 0, run.output
    assert set(Index.read(tmp_path / "data").splits["train"]) == {"zh-classical", "en"}


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
        (["prepare", "data", "--model", "m", "--train", "de-en=a,b", "--train", "en-de=b,a"], "given twice"),
        (["prepare", "data", "--model", "m", "--train", "de-en=a"], "not L1-L2=FILE1,FILE2"),
        (["prepare", "data", "--model", "m", "--train", "de-de=a,b"], "not L1-L2=FILE1,FILE2"),
        (["prepare", "data", "--model", "m", "--train", "de-en=a,b,c"], "not L1-L2=FILE1,FILE2"),
        (["prepare", "data", "--model", "m", "--train", "-en=a,b"], "not L1-L2=FILE1,FILE2"),
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
