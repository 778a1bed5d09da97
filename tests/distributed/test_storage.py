"""Input files and output directories, on this machine and elsewhere.

Oracle: pathlib. "Elsewhere" is fsspec's file system in memory, and Arrow's local file system by an address. For S3,
only the parsing of addresses is tested.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xlm.corpus.rows import Corpus
from xlm.distributed import storage
from xlm.distributed.storage import Directory, file_system, input_files
from xlm.errors import InputError, WriteError

pytest.importorskip("pyarrow")

DATA = b"the dog\na cat\n"
NAMES = ("a.txt", "b.txt.gz", "below/c.txt", "below/d.jsonl", "_SUCCESS", ".hidden", "_parts/e.txt")


ODD_NAMES = (
    "a.txt?endpoint_override=evil.example:80&scheme=http&region=x",
    "day=10%3A00/p%20q.txt",
    "h#x.txt",
    "q?x=1.txt",
    "s p.txt",
    "t[ab]*.txt",
)
"""Names most of which a URI parser would change or refuse."""


@pytest.fixture(params=["path", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address or path of a directory with files."""
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


def test_names_may_hold_any_character(root: str) -> None:
    directory = Directory(f"{root}/odd")
    for name in ODD_NAMES:
        directory.write(name, name.encode())
    deeper = ["/" in name for name in ODD_NAMES]
    for wanted, depths in (("odd", (True, False)), ("?dd/*", (False,)), ("odd/*/*", (True,))):
        files = input_files([f"{root}/{wanted}"])
        expected = [name for name, deep in zip(ODD_NAMES, deeper, strict=True) if deep in depths]
        assert [file.name for file in files] == [f"{root}/odd/{name}" for name in expected]
        assert [row.text for row in Corpus(files, format="text")] == expected
    for name in ODD_NAMES:
        assert [row.text for row in Corpus(input_files([f"{root}/odd/{name}"]), format="text")] == [name]


def test_what_is_listed_is_opened_by_the_address_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def opening(name: str) -> tuple[Any, str]:
        asked.append(name)
        return file_system(str(tmp_path))

    for name in ODD_NAMES:
        Directory(str(tmp_path)).write(name, name.encode())
    monkeypatch.setattr(storage, "file_system", opening)
    files = input_files(["s3://bucket/texts?region=eu-west-1"])
    assert [file.name for file in files] == [f"s3://bucket/texts/{name}" for name in ODD_NAMES]
    assert [row.text for row in Corpus(files, format="text")] == list(ODD_NAMES)
    assert set(asked) == {"s3://bucket/texts?region=eu-west-1"}


def test_an_address_is_a_store_a_path_and_options() -> None:
    fs = pytest.importorskip("pyarrow.fs")
    if not hasattr(fs, "S3FileSystem"):
        pytest.skip("Arrow was built without S3")
    system, path = file_system("s3://bucket/day=10%3A00/a#b c/*.txt?region=eu-west-1")
    assert (system.region, path) == ("eu-west-1", "bucket/day=10%3A00/a#b c/*.txt")
    if importlib.util.find_spec("s3fs") is None:  # s3fs would open it
        with pytest.raises(InputError, match="cannot be opened") as error:
            file_system("s3://bucket/te?t/*")
        assert "options" in str(error.value)
    assert file_system("file://localhost/tmp/a%20b?c/")[1] == "/tmp/a%20b?c"
    with pytest.raises(InputError, match="names another machine"):
        file_system("file://host/tmp")


def test_names_need_not_be_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff")).mkdir()
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    inside = tmp_path / os.fsdecode(b"\xff")
    (inside / os.fsdecode(b"\xfe.txt")).write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path), str(inside / "*"), str(inside / os.fsdecode(b"\xfe.txt")), f"file://{tmp_path}"):
        rows = list(Corpus(input_files([name])))
        assert [row.text for row in rows] == ["the dog", "a cat"]
        assert rows[0].file.endswith("/\\xff/\\xfe.txt")
    with pytest.raises(InputError, match="No such file"):
        input_files([str(inside / "nothing")])
    with pytest.raises(WriteError, match="cannot be used"):
        Directory(str(inside)).write("a", b"")


def test_what_is_in_the_output_is_no_input(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [file.name for file in input_files([root])]
    outside = [name for name in everything if "/below/" not in name]
    for output in (f"{root}/below", f"{root}/below/"):
        assert [file.name for file in input_files([root], output=output)] == outside
        assert [file.name for file in input_files([f"{root}/*"], output=output)] == outside
        for inside in (f"{root}/below", f"{root}/below/c.txt", f"{root}/below/*.txt"):
            with pytest.raises(InputError, match="holds an input"):
                input_files([inside], output=output)
    assert [file.name for file in input_files([root], output=f"{root}/bel")] == everything
    with pytest.raises(InputError, match="No such file"):
        input_files([f"{root}/be*/*"], output=f"{root}/below")
    with pytest.raises(InputError, match="holds an input"):
        input_files([f"{root}/a.txt"], output=root)
    if (tmp_path / "texts").exists():  # another name of the same directory
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "texts")
        for output in ("link/below", f"file://{tmp_path}/texts/below", "../" + tmp_path.name + "/texts/below"):
            assert [file.name for file in input_files([root], output=output)] == outside


@pytest.mark.parametrize("name", ["/nothing", "/*.nothing", "/nothing/*"])
def test_what_is_not_there_is_named(root: str, name: str) -> None:
    with pytest.raises(InputError, match="No such file") as error:
        input_files([root, root + name])
    assert error.value.found == root + name


def test_a_relative_path_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    files = input_files(["d", "d/a.txt", "d/*"])
    assert [file.name for file in files] == ["d/a.txt"] * 3
    monkeypatch.chdir("/")  # like a worker in another directory
    assert len(list(Corpus(files))) == 6


def test_a_name_with_wildcards_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    for name in ("[a].txt", "a.txt"):
        (tmp_path / name).write_bytes(DATA)
    assert [file.name for file in input_files([str(tmp_path / "[a].txt")])] == [str(tmp_path / "[a].txt")]


def test_only_what_was_given_is_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]" / "a.txt").write_bytes(DATA)
    monkeypatch.chdir(tmp_path / "run[1]")
    assert [file.name for file in input_files(["*.txt"])] == ["a.txt"]


def test_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    assert [row.problem for row in Corpus(input_files([str(tmp_path)]))] == ["the file is gone"]


def test_what_was_listed_once_is_listed_anew() -> None:
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Caching(MemoryFileSystem):  # type: ignore[misc]
        """A file system that caches listings, like those of object stores."""

        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012
        protocol = "caching"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.replace("caching://", "memory://")))

        def find(self, path: str, **options: Any) -> Any:
            found = super().find(path, **options)
            self.dircache.setdefault(path, found)
            return self.dircache.get(path, found)

    fsspec.register_implementation("caching", Caching, clobber=True)
    directory = Directory("caching://out")
    for number in range(3):
        directory.write(f"{number}", b"1")
        assert list(directory.names()) == [str(each) for each in range(number + 1)]


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
    assert list(directory.read_all(["nothing", "b"])) == [None, b"x" * 10_000_000]


def test_many_files_are_read_by_one_file_system(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(name: str) -> tuple[Any, str]:
        opened.append(name)
        return file_system(name)

    monkeypatch.setattr(storage, "file_system", opening)
    assert list(Directory(root).read_all(["a.txt", "below/c.txt", "_SUCCESS"])) == [DATA] * 3
    assert opened == [root]


def test_only_its_own_unfinished_files_are_removed(root: str) -> None:
    ours, theirs = Directory(f"{root}/out"), Directory(f"{root}/out")
    for directory in (ours, theirs):
        directory.write(f"_temporary/{directory.writer}/unfinished", b"1")
    ours.remove_unfinished()
    assert theirs.names(f"_temporary/{theirs.writer}") == {"unfinished": 1}
    assert theirs.names(f"_temporary/{ours.writer}") == {}
    ours.remove_unfinished(of_all=True)
    assert theirs.names(f"_temporary/{theirs.writer}") == {}


class Stopping(io.BytesIO):
    """A file whose reading is interrupted in the middle."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise KeyboardInterrupt
        return super().read(100)


def test_an_object_that_did_not_come_whole_is_not_there(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_STORES", (object,))
    directory = Directory(f"{root}/below")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    assert directory.copy(source, "a") == 1000
    assert directory.read("a") == b"x" * 1000
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *_: Stopping(b"y" * 1000))
        with pytest.raises(KeyboardInterrupt):
            directory.copy(source, "a")
    assert directory.read("a") is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *_: io.BytesIO(b"y" * 999))
        with pytest.raises(WriteError, match="changed while it was copied"):
            directory.copy(source, "a")
    assert directory.read("a") is None


def test_what_has_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []

    def flush(path: Path) -> None:
        assert not (tmp_path / "a").exists()
        flushed.append(path.read_bytes())

    monkeypatch.setattr(storage, "flush_to_disk", flush)
    Directory(str(tmp_path)).write("a", b"1")
    assert flushed == [b"1"]


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
