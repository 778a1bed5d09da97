"""Atomic writing. Oracle: the file system itself: what stands in the directory after each kind of failure."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from xlm._io.atomic import check_target, make_directory, replacing, write_text
from xlm.errors import VocabularyError, WriteError


def test_the_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_files_have_the_usual_permissions_and_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "ä\n")
    (tmp_path / "usual").touch()
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert (tmp_path / "ours").read_bytes() == b"\xc3\xa4\n"


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, VocabularyError])
def test_any_exception_leaves_the_old_file(tmp_path: Path, exception: type[BaseException]) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise exception("stop")

    with pytest.raises(exception, match=r"(?i)stop"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failing_disk_is_a_write_error_with_a_remedy(tmp_path: Path, code: int) -> None:
    target = tmp_path / "file"

    def write() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise OSError(code, "the reason")

    with pytest.raises(WriteError) as caught:
        write()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == code
    assert all(part in str(caught.value) for part in (str(target), "the reason", "remedy: "))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_system_cuts_short_is_a_write_error(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(WriteError, match="ulimit"):
            write_text(target, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_target_that_cannot_be_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(WriteError, match="a directory has that name"):
        write_text(tmp_path / "directory", "text")
    with pytest.raises(WriteError, match="make the directory first"):
        write_text(tmp_path / "missing/file", "text")
    with pytest.raises(WriteError, match="shorter name"):
        write_text(tmp_path / ("x" * 300), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


def test_the_longest_name_is_allowed(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_a_write_error_from_inside_keeps_its_words(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "outer"):
            write_text(tmp_path / "missing/inner", "text")

    with pytest.raises(WriteError, match="missing/inner"):
        write()


def test_directories_are_made_with_their_parents(tmp_path: Path) -> None:
    make_directory(tmp_path / "a/b")
    make_directory(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(WriteError, match="choose another path"):
            make_directory(path)
        with pytest.raises(WriteError, match="choose another path"):
            write_text(tmp_path / "file/below", "text")


def pipe(target: Path) -> None:
    os.mkfifo(target)


def link_to_a_pipe(target: Path) -> None:
    os.mkfifo(target.with_name("pipe"))
    target.symlink_to("pipe")


def like_dev_stdout(target: Path) -> None:
    target.symlink_to("/proc/self/status")  # a regular file, as standard output may be


@pytest.mark.parametrize("make", [pipe, link_to_a_pipe, like_dev_stdout])
def test_what_is_no_regular_file_keeps_its_name(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """To move a file onto a device is to take the device away from everybody, where one may."""
    target = tmp_path / "target"
    make(target)
    before = sorted(tmp_path.iterdir())
    kind = stat.S_IFMT(target.lstat().st_mode)
    with pytest.raises(WriteError, match="not a regular file"):
        write_text(target, "new")
    with pytest.raises(WriteError, match="not a regular file"):
        check_target(target)
    assert stat.S_IFMT(target.lstat().st_mode) == kind
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_that_will_fail_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "directory").mkdir()
    for name in ("file", "new"):
        check_target(tmp_path / name)
    wrong = {"directory": "directory has that name", "missing/new": "make the directory", "file/new": "is a file"}
    for name, remedy in wrong.items():
        with pytest.raises(WriteError) as caught:
            check_target(tmp_path / name)
        assert remedy in str(caught.value)
        assert caught.value.where == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]
    assert (tmp_path / "file").read_text() == "old"
