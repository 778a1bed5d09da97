"""Every way in which a file of a tokenizer can be broken, for every file that can be broken so.

Oracle: one error of this library that names the file, its line where it has one, what was found, what was expected,
and what to do; never another exception, never a tokenizer that is silently another one.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import VocabularyError, XLMError
from xlm.tokenizer.bpe import check_merges, read_codes, write_codes
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

Change = Callable[[bytes], bytes]


def in_line(number: int, change: Change) -> Change:
    """Changes one line of a file, counted from 1."""

    def changed(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[number - 1] = change(lines[number - 1])
        return b"\n".join(lines)

    return changed


def with_line(number: int, line: bytes) -> Change:
    return in_line(number, lambda old: line + b"\n" + old)


def with_entry(entry: bytes) -> Change:
    """Adds an entry at the end of a JSON object."""
    return lambda data: data.rstrip()[:-1].rstrip() + b",\n" + entry + b"}"


def with_mask(token: bytes) -> Change:
    return lambda data: data.replace(b'"mask_token": "<special1>"', b'"mask_token": ' + token)


def without_added_tokens(data: bytes) -> bytes:
    """tokenizer_config.json as transformers wrote it before it held the special tokens itself."""
    return json.dumps({k: v for k, v in json.loads(data).items() if k != "added_tokens_decoder"}, indent=2).encode()


def first_line_again(data: bytes) -> bytes:
    return with_line(3, data.split(b"\n")[0])(data)


OBJECTS = ("vocab.json", "tokenizer_config.json", "special_tokens_map.json")
MERGES_FILES = ("merges.txt", "codes")
LINES = (*MERGES_FILES, "vocab")
OTHER_WORDS = [f"w{i}xyz" for i in range(300)]
OTHER_MERGES = b"".join(b"q%d z%d 1\n" % (i, i) for i in range(100))

# what is wrong: the files it can be wrong in, the change, the line that the error names (0 where none can be told)
BROKEN: dict[str, tuple[tuple[str, ...], Change, int]] = {
    "empty": ((*OBJECTS, *LINES), lambda data: b"", 0),
    "a line end only, JSON": (OBJECTS, lambda data: b"\n", 2),
    "a line end only": (LINES, lambda data: b"\n", 1),
    "not UTF-8": ((*OBJECTS, *LINES), in_line(3, lambda line: b"\xe4" + line), 3),
    "UTF-16": ((*OBJECTS, *LINES), lambda data: data.decode().encode("utf-16"), 1),
    "compressed": ((*OBJECTS, *LINES), gzip.compress, 1),
    "a byte order mark": ((*OBJECTS, *LINES), lambda data: b"\xef\xbb\xbf" + data, 1),
    "zeros": ((*OBJECTS, *LINES), lambda data: bytes(1000), 1),
    "cut in a line": (OBJECTS, lambda data: b"\n".join(data.split(b"\n")[:5])[:-2], 5),
    "nested without end": (OBJECTS, lambda data: b"[" * 100_000, 0),
    "nested deeply": (OBJECTS, with_entry(b'"new": ' + b"[" * 50_000 + b"]" * 50_000), 0),
    "a huge number": (OBJECTS, with_entry(b'"new": ' + b"9" * 10_000), 0),
    "a huge id": (("vocab.json",), with_entry(b'"new": 1' + b"0" * 400), len(VOCABULARY) + 2),
    "no number": (("vocab.json",), with_entry(b'"new": NaN'), len(VOCABULARY) + 2),
    "no object": (OBJECTS, lambda data: b"[1]", 0),
    "a key twice": (OBJECTS, lambda data: with_entry(data.split(b"\n")[1].rstrip(b","))(data), -1),
    "a gap in the ids": (("vocab.json",), in_line(4, lambda line: re.sub(rb"\d+,$", b"1000,", line)), 4),
    "an id twice": (("vocab.json",), in_line(4, lambda line: re.sub(rb"\d+,$", b"25,", line)), -1),
    "no special token": (("vocab.json",), lambda data: data.replace(b'"</s>"', b'"<x>"'), -1),
    "another special token": (OBJECTS[1:], with_mask(b'"<m>"'), -1),
    "a special token that is a list": (OBJECTS[1:], with_mask(b"[1]"), -1),
    "an added token": (OBJECTS[1:2], lambda data: data.replace(b'": "<s>"', b'": "' + b"x" * 5000 + b'"'), 0),
    "one column": (MERGES_FILES, with_line(3, b"abc"), 3),
    "four columns": (MERGES_FILES, with_line(3, b"a b c d"), 3),
    "an empty line": (MERGES_FILES, with_line(3, b""), 3),
    "a count that is none": (MERGES_FILES, with_line(3, b"q z 1.5"), 3),
    "a huge count": (MERGES_FILES, with_line(3, b"q z " + b"9" * 5000), 3),
    "a word's count that is none": (("vocab",), with_line(3, b"q 1.5"), 3),
    "a word's huge count": (("vocab",), with_line(3, b"q " + b"9" * 5000), 3),
    "a line twice": (MERGES_FILES, first_line_again, 3),
    "three columns in all lines": (("vocab",), lambda data: data.replace(b" ", b" 1 "), 1),
    "a special token among the words": (("vocab",), with_line(3, b"<s>@@ 1"), 3),
    "the vocabulary for codes": (("codes",), lambda data: b"the 12\nof 11\n", 1),
    "the vocabulary for merges": (("merges.txt",), lambda data: b"the 12\nof 11\n", 0),
    "merges of another model": (("merges.txt", "codes"), lambda data: OTHER_MERGES, 0),
    "words of another model": (("vocab",), lambda data: "".join(f"{word} 5\n" for word in OTHER_WORDS).encode(), 0),
    "ids of another model": (
        ("vocab.json",),
        lambda data: json.dumps({token: i for i, token in enumerate((*SPECIAL_TOKENS, *OTHER_WORDS))}).encode(),
        0,
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A whole tokenizer, in both layouts."""
    XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}).save_pretrained(tmp_path)
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    return tmp_path


def opened(directory: Path, name: str) -> XLMTokenizer:
    """Opens the tokenizer in the way that reads a file."""
    if name in ("codes", "vocab"):
        return XLMTokenizer.from_codes(directory / "codes", directory / "vocab")
    if name == "special_tokens_map.json":
        config = directory / "tokenizer_config.json"
        config.write_bytes(without_added_tokens(config.read_bytes()))
    return XLMTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, (names, _, _) in BROKEN.items() for name in names])
def test_one_error_says_what_and_where(files: Path, kind: str, name: str) -> None:
    path = files / name
    _, change, line = BROKEN[kind]
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(XLMError) as caught:
        opened(files, name)
    error = caught.value
    # Which of two files is of another model cannot be told: the merges are named.
    other = {"words of another model": files / "codes", "ids of another model": files / "merges.txt"}.get(kind, path)
    number = rf", line {line if line > 0 else '[0-9]+'}" if line else ""
    assert re.fullmatch(rf"{re.escape(str(other))}{number}(, \w+)?", str(error.where))
    assert error.found is not None
    assert error.expected is not None or kind in ("empty", "not UTF-8", "UTF-16", "compressed")
    assert error.remedy
    assert len(str(error)) < 700


@pytest.mark.parametrize("name", [*OBJECTS, *LINES])
def test_a_directory_in_the_place_of_a_file(files: Path, name: str) -> None:
    (files / name).unlink()
    (files / name).mkdir()
    with pytest.raises(VocabularyError, match="a directory") as caught:
        opened(files, name)
    assert caught.value.where == files / name


@pytest.mark.parametrize("name", ["vocab.json", *LINES])
def test_a_missing_file(files: Path, name: str) -> None:
    (files / name).unlink()
    with pytest.raises(VocabularyError, match=rf"no {re.escape(name)}|{re.escape(name)}\n  found: No such file"):
        opened(files, name)


def test_the_files_themselves_are_whole(files: Path) -> None:
    for name in (*OBJECTS, *LINES):
        assert opened(files, name).merges == MERGES


@pytest.mark.filterwarnings("ignore:.*lines are skipped:xlm.XLMWarning")
def test_the_published_pairs_are_of_one_model_each(reference: Path) -> None:
    published = reference / "published"
    for name in ("ende", "enfr", "xnli_15"):
        path = published / f"codes_{name}"
        check_merges(Vocabulary.from_words(published / f"vocab_{name}"), read_codes(path), path)
