"""Names of inputs to files, and directories that are written to, of this machine and elsewhere.

Oracle: pathlib; elsewhere is fsspec's file system in memory, and Arrow's own of this machine by its address.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlm.distributed.inputs import input_files
from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError
from xlm.scoring.rows import Corpus

pytest.importorskip("pyarrow")

DATA = b"the dog\na cat\n"
NAMES = ("a.txt", "b.txt.gz", "below/c.txt", "below/d.jsonl", "_SUCCESS", ".hidden", "_parts/e.txt")


@pytest.fixture(params=["path", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address, or a path, below which there are files."""
    if request.param == "memory":
        fsspec = pytest.importorskip("fsspec")
        system = fsspec.filesystem("memory")
        for name in NAMES:
            system.pipe(f"/texts/{name}", gzip.compress(DATA) if name.endswith("gz") else DATA)
        yield "memory://texts"
        system.store.clear()
        system.pseudo_dirs[:] = [""]
        return
    for name in NAMES:
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(DATA) if name.endswith("gz") else DATA)
    yield f"{'file://' if request.param == 'file' else ''}{tmp_path}/texts"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", ["a.txt", "b.txt.gz", "below/c.txt", "below/d.jsonl"]),
        ("/", ["a.txt", "b.txt.gz", "below/c.txt", "below/d.jsonl"]),
        ("/a.txt", ["a.txt"]),
        ("/_SUCCESS", ["_SUCCESS"]),
        ("/*.txt", ["a.txt"]),
        ("/*", ["a.txt", "b.txt.gz"]),
        ("/bel?w/[c-d].*", ["below/c.txt", "below/d.jsonl"]),
        ("/below", ["below/c.txt", "below/d.jsonl"]),
    ],
)
def test_names_are_files_directories_and_patterns(root: str, name: str, found: list[str]) -> None:
    files = input_files([root + name])
    assert [file.name for file in files] == [f"{root}/{each}" for each in found]
    assert [file.size() for file in files] == [len(gzip.compress(DATA) if "gz" in each else DATA) for each in found]


def test_files_are_read_wherever_they_are(root: str) -> None:
    files = input_files([f"{root}/a.txt", f"{root}/b.txt.gz"])
    rows = list(Corpus(files))
    assert [(row.number, row.text, row.problem) for row in rows] == [(1, "the dog", None), (2, "a cat", None)] * 2
    assert [row.file for row in rows] == [f"{root}/a.txt"] * 2 + [f"{root}/b.txt.gz"] * 2


def test_parquet_is_read_wherever_it_is(root: str, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["the dog", None]}), tmp_path / "t.parquet")
    Directory(root).copy(tmp_path / "t.parquet", "t.parquet")
    rows = list(Corpus(input_files([f"{root}/t.parquet"])))
    assert [(row.text, row.problem) for row in rows] == [("the dog", None), (None, "'text' is not text: NoneType")]


@pytest.mark.parametrize("name", ["/nothing", "/*.nothing", "/nothing/*"])
def test_what_is_not_there_is_named(root: str, name: str) -> None:
    with pytest.raises(InputError, match="no such file") as error:
        input_files([root, root + name])
    assert error.value.found == root + name


def test_a_relative_path_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    files = input_files(["d", "d/a.txt", "d/*"])
    assert [file.name for file in files] == ["d/a.txt"] * 3
    monkeypatch.chdir("/")  # as a worker that is elsewhere
    assert len(list(Corpus(files))) == 6


def test_a_name_with_wildcards_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    for name in ("[a].txt", "a.txt"):
        (tmp_path / name).write_bytes(DATA)
    assert [file.name for file in input_files([str(tmp_path / "[a].txt")])] == [str(tmp_path / "[a].txt")]


def test_no_such_address() -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        input_files(["nothing://x"])


def test_a_directory_is_written_and_read(root: str, tmp_path: Path) -> None:
    directory = Directory(f"{root}/out/put")
    assert directory.names() == {}
    assert directory.read("a") is None
    directory.write("_parts/a", b"1")
    directory.write("_parts/a", b"22")
    (tmp_path / "source").write_bytes(b"x" * 10_000_000)
    assert directory.copy(tmp_path / "source", "b") == 10_000_000
    assert directory.names() == {"b": 10_000_000}
    assert directory.names("_parts") == {"a": 2}
    assert directory.read("_parts/a") == b"22"
    assert directory.read("b") == b"x" * 10_000_000
    assert directory.names("_temporary") == {}
    directory.remove("_parts/a")
    directory.remove("_parts/a")
    assert directory.names("_parts") == {}
    directory.remove_unfinished()
    directory.remove_unfinished()
    assert directory.names() == {"b": 10_000_000}


def test_nothing_half_written_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(str(tmp_path / "out"))
    directory.write("a", b"old")

    source = tmp_path / "source"
    source.write_bytes(b"new")
    read = Path.open

    def stopping(self: Path, *arguments: object) -> object:
        if self == source:
            raise KeyboardInterrupt
        return read(self, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", stopping)
    with pytest.raises(KeyboardInterrupt):
        directory.copy(source, "a")
    assert directory.read("a") == b"old"
    assert directory.names("_temporary") == {}


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot be used"):
        Directory(str(tmp_path / "file" / "out")).write("a", b"")
