"""Files that are not regular or too large: refused at once, and never read.

Oracle: the standard library's own kinds of files; a clock.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm._io.files import MOST_BYTES, read_regular
from xlm.checkpoint.hf_config import read_json
from xlm.checkpoint.hf_weights import read_safetensors
from xlm.checkpoint.pickles import check_first_bytes, load_pickle
from xlm.data.shards import INDEX_FILE, Index
from xlm.errors import CheckpointError, InputError, VocabularyError, XLMError
from xlm.tokenizer.bpe import write_codes
from xlm.tokenizer.tokenizer import XLMTokenizer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no pipes and devices in the file system")


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most some hundred characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which takes no room


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "endless": (lambda path: path.symlink_to("/dev/zero"), "a device, a pipe or a socket"),
    "a pipe": (os.mkfifo, "a device, a pipe or a socket"),
    "a link to a pipe": (make_link_to_pipe, "a device, a pipe or a socket"),
    "a socket": (make_socket, "a device, a pipe or a socket"),
    "a directory": (Path.mkdir, "a directory"),
    "large": (make_large, f"more than {MOST_BYTES:,} bytes"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "No such file"),
    "a link to itself": (make_loop, "(?i)symbolic links"),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A whole tokenizer, in both layouts, with the files that transformers wrote before 4.34 too."""
    XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "added_tokens.json").write_text('{"<special7>": 11}')
    (tmp_path / "config.json").write_text('{"lang2id": {"de": 0, "en": 1}}')
    VOCABULARY.to_words(tmp_path / "vocab")
    write_codes(tmp_path / "codes", MERGES)
    return tmp_path


def in_time(call: Callable[[], object]) -> BaseException | None:
    """Return what a call raises; fail when it takes more than 20 seconds."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert raised, "still waiting"
    return raised[0]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "name",
    [
        *("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("config.json", "codes", "vocab"),
    ],
)
def test_a_tokenizer_refuses_it_at_once(files: Path, name: str, kind: str) -> None:
    make, found = ODD[kind]
    (files / name).unlink()
    make(files / name)
    if name in ("codes", "vocab"):
        error = in_time(lambda: XLMTokenizer.from_codes(files / "codes", files / "vocab"))
    else:
        error = in_time(lambda: XLMTokenizer.from_pretrained(files))
    assert isinstance(error, VocabularyError)
    with pytest.raises(VocabularyError, match=found):
        raise error
    assert error.where == files / name


@pytest.mark.parametrize("kind", ODD)
def test_the_other_readers_refuse_it_too(tmp_path: Path, kind: str) -> None:
    make, found = ODD[kind]
    readers: dict[str, tuple[Callable[[Path], object], type[XLMError]]] = {
        "config.json": (read_json, CheckpointError),
        INDEX_FILE: (lambda path: Index.read(path.parent), InputError),
    }
    for name, (read, expected) in readers.items():
        make(tmp_path / name)
        error = in_time(partial(read, tmp_path / name))
        assert isinstance(error, expected)
        if (name, kind) != (INDEX_FILE, "a link to nothing"):
            with pytest.raises(expected, match=found):
                raise error


WEIGHTS: list[Callable[[Path], object]] = [check_first_bytes, load_pickle, read_safetensors]


@pytest.mark.parametrize("read", WEIGHTS)
@pytest.mark.parametrize("kind", sorted(ODD.keys() - {"large"}))  # weights of any size are mapped
def test_the_readers_of_weights_refuse_it_too(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    make, found = ODD[kind]
    make(tmp_path / "weights")
    error = in_time(lambda: read(tmp_path / "weights"))
    assert isinstance(error, CheckpointError)
    with pytest.raises(CheckpointError, match=found):
        raise error


_pipes_on_open: set[Path] = set()


def _make_pipe(event: str, arguments: tuple[object, ...]) -> None:
    """Put a pipe in the place of a file that the interpreter is about to open."""
    if event == "open" and isinstance(name := arguments[0], str | Path) and (path := Path(name)) in _pipes_on_open:
        _pipes_on_open.remove(path)
        path.unlink()
        os.mkfifo(path)


@cache  # the interpreter cannot remove such a hook
def _install_hook() -> None:
    sys.addaudithook(_make_pipe)


@pytest.fixture
def pipe_on_open(tmp_path: Path) -> Iterator[Path]:
    """A regular file that a pipe replaces between the look at it and its opening."""
    path = tmp_path / "file"
    path.write_bytes(b"PK")
    _install_hook()
    _pipes_on_open.add(path)
    yield path
    assert not _pipes_on_open


@pytest.mark.parametrize("read", [*WEIGHTS, read_json])
def test_a_pipe_that_takes_the_name_before_the_file_is_opened(
    pipe_on_open: Path, read: Callable[[Path], object]
) -> None:
    error = in_time(lambda: read(pipe_on_open))
    assert isinstance(error, CheckpointError)
    with pytest.raises(CheckpointError, match="a device, a pipe or a socket"):
        raise error


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, error=InputError, most=5) == b"12345"
    with pytest.raises(InputError, match="at most 4 bytes"):
        read_regular(path, error=InputError, most=4)
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", error=InputError) == b"12345"
    with pytest.raises(InputError, match="null"):
        read_regular(Path("a\0b"), error=InputError)
