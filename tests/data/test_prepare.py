"""Raw text to shards and back.

Oracle: the tokenizer, line by line in this process; a run that is cut off against one that is not.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm.data.batches import Order, Position, batches, open_streams
from xlm.data.prepare import prepare
from xlm.data.shards import INDEX_FILE, Index, ShardSequence
from xlm.errors import InputError, LanguageError
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest

LINES = [" ".join(TEXT.split()[i : i + 5]) for i in range(0, 30, 3)] + ["", "qq zz"]


@pytest.fixture
def tokenizer() -> XLMTokenizer:
    return XLMTokenizer(VOCABULARY, MERGES, preset="original", lang2id={"de": 0, "en": 1})


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def _expected(tokenizer: XLMTokenizer, lines: list[str], lang: str) -> list[int]:
    each = ([*tokenizer.encode(line, lang=lang, add_special_tokens=False), 1] for line in lines)
    return list(itertools.chain.from_iterable(each))


def _ids(directory: Path, split: str, language: str) -> list[int]:
    index = Index.read(directory)
    sequence = ShardSequence(
        directory, index.splits[split][language].shards, dtype=index.dtype, vocab_size=index.vocab_size
    )
    return [int(index) for index in sequence.slice(0, len(sequence))]


@pytest.mark.parametrize("workers", [1, 2])
def test_ids_counts_and_files(tokenizer: XLMTokenizer, tmp_path: Path, workers: int) -> None:
    en, de = _write(tmp_path / "en.txt", LINES), _write(tmp_path / "de.txt", LINES[:4])
    index = prepare(tokenizer, {"train": {"en": en, "de": de}, "valid": {"en": de}}, tmp_path / "data", workers=workers)
    assert index == Index.read(tmp_path / "data")
    assert _ids(tmp_path / "data", "train", "en") == _expected(tokenizer, LINES, "en")
    assert _ids(tmp_path / "data", "train", "de") == _expected(tokenizer, LINES[:4], "de")
    assert _ids(tmp_path / "data", "valid", "en") == _expected(tokenizer, LINES[:4], "en")
    text = index.splits["train"]["en"]
    assert (text.complete, text.lines, text.tokens) == (True, len(LINES), len(_expected(tokenizer, LINES, "en")))
    assert sum(shard.unknown for shard in text.shards) == _expected(tokenizer, LINES, "en").count(3) > 0
    assert index.dtype == "uint16"
    reopened = XLMTokenizer.from_pretrained(tmp_path / "data/tokenizer")
    assert tokenizer_digest(reopened) == tokenizer_digest(tokenizer) == index.signature


def test_compressed_text_and_an_unfinished_line(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "en.gz", "wb") as file:
        file.write("\n".join(LINES[:3]).encode())
    prepare(tokenizer, {"train": {"en": tmp_path / "en.gz"}}, tmp_path / "data")
    assert _ids(tmp_path / "data", "train", "en") == _expected(tokenizer, LINES[:3], "en")


def test_any_slice_across_shards(tokenizer: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.data.prepare._BATCH_LINES", 2)
    en = _write(tmp_path / "en.txt", LINES)
    index = prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data", shard_tokens=30)
    shards = index.splits["train"]["en"].shards
    assert len(shards) > 2
    sequence = ShardSequence(tmp_path / "data", shards, dtype="uint16", vocab_size=index.vocab_size)
    expected = _expected(tokenizer, LINES, "en")
    assert len(sequence) == len(expected)
    for begin, end in itertools.combinations_with_replacement(range(len(expected) + 1), 2):
        assert sequence.slice(begin, end).tolist() == expected[begin:end]


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_it_goes_on_where_it_was_cut_off(
    tokenizer: XLMTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    monkeypatch.setattr("xlm.data.prepare._BATCH_LINES", 2)
    en = _write(tmp_path / "en.txt", LINES)
    texts = {"train": {"en": en}}
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tokenizer, texts, tmp_path / "data", shard_tokens=30, progress=stop)
    done = Index.read(tmp_path / "data").splits["train"]["en"]
    assert not done.complete
    assert len(done.shards) == fail_at
    with pytest.raises(InputError, match="not fully prepared"):
        open_streams(tmp_path / "data", Index.read(tmp_path / "data"), "train", batch_size=1, seq_len=2)
    first = tmp_path / "data" / done.shards[0].file
    stamp = first.stat().st_mtime_ns
    prepare(tokenizer, texts, tmp_path / "data", shard_tokens=30)
    assert first.stat().st_mtime_ns == stamp  # was not made again
    assert _ids(tmp_path / "data", "train", "en") == _expected(tokenizer, LINES, "en")
    prepare(tokenizer, texts, tmp_path / "whole", shard_tokens=30)
    assert Index.read(tmp_path / "whole") == Index.read(tmp_path / "data")


def test_another_vocabulary_is_refused(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    en = _write(tmp_path / "en.txt", LINES)
    prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data")
    other = XLMTokenizer(VOCABULARY, MERGES[:-1], preset="original", lang2id={"de": 0, "en": 1})
    with pytest.raises(InputError, match="another tokenizer"):
        prepare(other, {"valid": {"en": en}}, tmp_path / "data")


def test_a_changed_text_is_refused(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    en = _write(tmp_path / "en.txt", LINES)
    prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data")
    _write(en, LINES[1:])
    with pytest.raises(InputError, match="another text"):
        prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data")


def test_text_that_cannot_be(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    empty = _write(tmp_path / "empty.txt", [])
    with pytest.raises(InputError, match="empty"):
        prepare(tokenizer, {"train": {"en": empty}}, tmp_path / "a")
    with pytest.raises(InputError, match="cannot be read"):
        prepare(tokenizer, {"train": {"en": tmp_path / "missing"}}, tmp_path / "b")
    with pytest.raises(LanguageError):
        prepare(tokenizer, {"train": {"xx": empty}}, tmp_path / "c")
    (tmp_path / "latin").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(InputError, match="line 2"):
        prepare(tokenizer, {"train": {"en": tmp_path / "latin"}}, tmp_path / "d")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"good\n" * 100)[:-4])
    with pytest.raises(InputError, match="gzip"):
        prepare(tokenizer, {"train": {"en": tmp_path / "cut.gz"}}, tmp_path / "e")


def test_damage_is_seen(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    index = prepare(tokenizer, {"train": {"en": _write(tmp_path / "en.txt", LINES)}}, tmp_path / "data")
    (shard,) = index.splits["train"]["en"].shards
    path = tmp_path / "data" / shard.file
    data = path.read_bytes()
    with pytest.raises(InputError, match="ids below 20"):
        ShardSequence(tmp_path / "data", [shard], dtype="uint16", vocab_size=20)
    path.write_bytes(data[:-2])
    with pytest.raises(InputError, match="not what its index says"):
        ShardSequence(tmp_path / "data", [shard], dtype="uint16", vocab_size=index.vocab_size, check=False)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(InputError, match="SHA-256"):
        ShardSequence(tmp_path / "data", [shard], dtype="uint16", vocab_size=index.vocab_size)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        ShardSequence(tmp_path / "data", [shard], dtype="uint16", vocab_size=index.vocab_size)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.pop("splits"),
        lambda index: index.update(format="other"),
        lambda index: index.update(dtype="float64"),
        lambda index: index["splits"]["train"]["en"]["shards"][0].update(file="../outside"),
        lambda index: index["splits"]["train"]["en"]["shards"][0].update(tokens=-1),
        lambda index: index["splits"]["train"].update(en=[]),
    ],
)
def test_a_broken_index_is_refused(tokenizer: XLMTokenizer, tmp_path: Path, change: Any) -> None:
    prepare(tokenizer, {"train": {"en": _write(tmp_path / "en.txt", LINES)}}, tmp_path)
    values = json.loads((tmp_path / INDEX_FILE).read_text("utf-8"))
    change(values)
    (tmp_path / INDEX_FILE).write_text(json.dumps(values), "utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        Index.read(tmp_path)


def test_shards_of_the_old_format_are_refused_and_say_so(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    en = _write(tmp_path / "en.txt", LINES)
    prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data")
    index = json.loads((tmp_path / "data" / INDEX_FILE).read_text("utf-8"))
    assert index["format"] == "xlm shards 2"
    (tmp_path / "data" / INDEX_FILE).write_text(json.dumps({**index, "format": "xlm shards 1"}), "utf-8")
    message = r"(?s)another format.*xlm shards 1.*xlm shards 2.*prepare the text again"
    with pytest.raises(InputError, match=message):
        Index.read(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        prepare(tokenizer, {"test": {"en": en}}, tmp_path / "data")


@pytest.mark.parametrize("rest", [{"form": "csv", "column": "text"}, {"form": "text"}, {}])
def test_an_index_of_an_older_release_is_read(tokenizer: XLMTokenizer, tmp_path: Path, rest: dict[str, str]) -> None:
    """Its key for the format was ``form``; before that there was none, and all files were plain text."""
    prepare(tokenizer, {"train": {"en": _write(tmp_path / "en.txt", LINES)}}, tmp_path)
    values = json.loads((tmp_path / INDEX_FILE).read_text("utf-8"))
    source = values["splits"]["train"]["en"]["source"]
    values["splits"]["train"]["en"]["source"] = {name: source[name] for name in ("path", "bytes", "modified")} | rest
    (tmp_path / INDEX_FILE).write_text(json.dumps(values), "utf-8")
    read = Index.read(tmp_path).splits["train"]["en"].source
    assert (read.format, read.column, read.path) == (rest.get("form", "text"), rest.get("column"), source["path"])


def test_a_tokenizer_with_other_special_tokens_is_another(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    en = _write(tmp_path / "en.txt", LINES)
    prepare(tokenizer, {"train": {"en": en}}, tmp_path / "data")
    other = dataclasses.replace(tokenizer, additional_special_tokens=())
    with pytest.raises(InputError, match="another tokenizer"):
        prepare(other, {"train": {"en": en}}, tmp_path / "data")


def test_batches_are_the_windows_in_order(tokenizer: XLMTokenizer, tmp_path: Path) -> None:
    texts = {language: _write(tmp_path / language, LINES) for language in ("en", "de")}
    index = prepare(tokenizer, {"train": texts}, tmp_path / "data")
    streams = open_streams(tmp_path / "data", index, "train", batch_size=4, seq_len=5)
    order = Order(windows={language: len(stream) for language, stream in streams.items()}, seed=1)
    position = Position()
    for batch in itertools.islice(batches(streams, order, position), 20):
        language, window, position = order.next(position)
        assert (batch.language, batch.position) == (language, position)
        assert np.array_equal(batch.input_ids, streams[language].window(window))
    (half,) = itertools.islice(batches(streams, order, position, first_row=2, rows=2), 1)
    (whole,) = itertools.islice(batches(streams, order, position), 1)
    assert np.array_equal(half.input_ids, whole.input_ids[2:])
    with pytest.raises(InputError, match="no such split"):
        open_streams(tmp_path / "data", index, "valid", batch_size=1, seq_len=2)
