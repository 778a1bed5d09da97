"""Files that are filled by several runs.

Oracle: the bytes of a run that nothing stopped; and every state that a run can be stopped in, made by stopping it
there.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from xlm._io.resumable import ResumableFile
from xlm.errors import InputError, WriteError

WINDOWS = [b"head\n", b"one\ntwo\n", b"", b"three\n"]
WHOLE = b"".join(WINDOWS)
IDENTITY = {"model": "m", "columns": ["a", "b"], "inputs": [("x", 3)]}


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of runs, and nobody pulls the plug: nothing has to reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run(
    target: Path,
    *,
    resume: bool = True,
    identity: dict[str, object] | None = None,
    convert: Callable[[Path, Path], None] | None = None,
    windows: Sequence[bytes] = WINDOWS,
) -> ResumableFile:
    file = ResumableFile(target, identity=identity or IDENTITY, threads=2, resume=resume)
    try:
        if not file.complete:
            for i in range(file.rows, len(windows)):
                file.append(windows[i], rows=1, digest=str(i), problems=1, counts={"unknown": 2})
            file.finish(convert=convert)
    finally:
        file.close()
    return file


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_run_that_nothing_stops(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"older")
    run(target, resume=False)
    assert target.read_bytes() == WHOLE
    assert names(tmp_path) == {"out", "out.meta.json"}
    meta = json.loads((tmp_path / "out.meta.json").read_text(encoding="utf-8"))
    assert meta == {
        **{"model": "m", "columns": ["a", "b"], "inputs": [["x", 3]]},
        **{"rows": 4, "problems": 4, "counts": {"unknown": 8}, "digest": "3", "threads": 2, "bytes": len(WHOLE)},
    }


def stop_after(stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the run at its n-th action on the file system, before or after it is done."""
    done = 0

    def stopping(action: Callable[..., object]) -> Callable[..., object]:
        def stopped(*args: object, **kwargs: object) -> object:
            nonlocal done
            done += 1
            if done == stop_at:
                raise Killed
            result = action(*args, **kwargs)
            if not hasattr(result, "close"):  # behind what opens a file, nobody would close it
                done += 1
                if done == stop_at:
                    raise Killed
            return result

        return stopped

    monkeypatch.setattr(os, "fsync", stopping(os.fsync))
    for name in ("open", "replace", "unlink"):
        monkeypatch.setattr(Path, name, stopping(getattr(Path, name)))


def upper(part: Path, target: Path) -> None:
    with target.open("wb") as file:
        file.write(part.read_bytes().upper())


Convert = Callable[[Path, Path], None] | None


def stopped_at(target: Path, stop_at: int, convert: Convert) -> bool:
    """Runs until the n-th action on the file system; whether there were as many."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(stop_at, patch)
        try:
            run(target, convert=convert)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("convert", [None, upper])
def test_stopped_anywhere_it_goes_on_and_ends_the_same(tmp_path: Path, convert: Convert) -> None:
    stop_at, stopped = 0, True
    while stopped:
        stop_at += 1
        directory = tmp_path / str(stop_at)
        directory.mkdir()
        target = directory / "out"
        stopped = stopped_at(target, stop_at, convert)
        file = run(target, convert=convert)
        assert (file.problems, file.counts) == (len(WINDOWS), {"unknown": 2 * len(WINDOWS)})
        assert target.read_bytes() == (WHOLE if convert is None else WHOLE.upper())
        assert names(directory) <= {"out", "out.meta.json", "out.part.tmp"}
        meta = json.loads((directory / "out.meta.json").read_text(encoding="utf-8"))
        assert (meta["rows"], meta["problems"], meta["bytes"]) == (4, 4, len(WHOLE))
    assert stop_at > 30


@pytest.mark.parametrize("convert", [None, upper])
def test_stopped_a_second_time_while_it_goes_on(tmp_path: Path, convert: Convert) -> None:
    choose = random.Random(1)
    both = 0
    for number in range(60):
        directory = tmp_path / str(number)
        directory.mkdir()
        target = directory / "out"
        first = stopped_at(target, choose.randint(1, 80), convert)
        second = stopped_at(target, choose.randint(1, 40), convert)
        both += first and second
        run(target, convert=convert)
        assert target.read_bytes() == (WHOLE if convert is None else WHOLE.upper())
        assert names(directory) <= {"out", "out.meta.json", "out.part.tmp"}
    assert both > 20


def test_no_rows_stopped_anywhere(tmp_path: Path) -> None:
    stop_at, stopped = 0, True
    while stopped:
        stop_at += 1
        directory = tmp_path / str(stop_at)
        directory.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            stop_after(stop_at, patch)
            try:
                run(directory / "out", windows=[])
                stopped = False
            except Killed:
                pass
        run(directory / "out", windows=[])
        assert (directory / "out").read_bytes() == b""
        assert names(directory) <= {"out", "out.meta.json", "out.part.tmp"}


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = ResumableFile(tmp_path / "out", identity=IDENTITY, threads=2, resume=False)
    first.append(WINDOWS[0], rows=1, digest="0")
    for resume in (True, False):
        with pytest.raises(WriteError, match="Another run is writing"):
            run(tmp_path / "out", resume=resume)
    for i, window in enumerate(WINDOWS[1:], start=1):
        first.append(window, rows=1, digest=str(i))
    first.finish()
    assert (tmp_path / "out").read_bytes() == WHOLE
    assert names(tmp_path) == {"out", "out.meta.json"}


def test_a_run_that_ended_between_opening_and_locking_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    first = ResumableFile(tmp_path / "out", identity=IDENTITY, threads=2, resume=False)
    for i, window in enumerate(WINDOWS):
        first.append(window, rows=1, digest=str(i))
    flock = fcntl.flock

    def late(file: object, operation: int) -> None:
        first.finish()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(WriteError, match="Another run is writing"):
        run(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_a_finished_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "out")
    (tmp_path / "out").write_bytes(WHOLE[:-1])
    with pytest.raises(InputError, match="not what the run wrote"):
        run(tmp_path / "out")
    run(tmp_path / "out", resume=False)
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_what_was_finished_is_known_when_it_is_resumed(tmp_path: Path) -> None:
    run(tmp_path / "out")
    file = run(tmp_path / "out")
    assert (file.complete, file.rows, file.problems, file.digest, file.size) == (True, 4, 4, "3", len(WHOLE))


def test_an_older_file_is_not_taken_for_the_finished_one(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"of an older model")
    stop_at = 0
    while not (tmp_path / "out.part.json").exists() or '"final_bytes": null' in (tmp_path / "out.part.json").read_text(
        encoding="utf-8"
    ):
        stop_at += 1
        for name in names(tmp_path) - {"out"}:
            (tmp_path / name).unlink()
        assert stopped_at(tmp_path / "out", stop_at, None)
    # Just before the move; somebody removes what is unfinished.
    assert (tmp_path / "out").read_bytes() == b"of an older model"
    (tmp_path / "out.part").unlink()
    with pytest.raises(InputError, match="not what the run wrote"):
        run(tmp_path / "out")
    (tmp_path / "out.part.json").unlink()
    assert not run(tmp_path / "out").complete
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_a_link_is_followed_and_a_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    run(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == {"out", "out.meta.json"}
    assert (tmp_path / "real" / "out").read_bytes() == WHOLE
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="not a regular file"):
        run(tmp_path / "pipe")
    with pytest.raises(WriteError, match="not a regular file"):
        run(Path(os.devnull))
    assert names(tmp_path) == {"real", "link", "pipe"}


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    for length in (250, 300):
        with pytest.raises(WriteError, match="shorter name"):
            run(tmp_path / ("x" * length))
    assert names(tmp_path) == set()


def test_the_converted_file_is_on_disk_before_the_lines_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def noting(descriptor: int) -> None:
        assert (tmp_path / "out.part").exists()
        synced.append(os.pread(descriptor, 100, 0))

    monkeypatch.setattr(os, "fsync", noting)
    run(tmp_path / "out", convert=upper)
    assert WHOLE.upper() in synced


def start(target: Path) -> None:
    file = ResumableFile(target, identity=IDENTITY, threads=3, resume=False)
    file.append(WINDOWS[0], rows=1, digest="0")
    file.append(WINDOWS[1], rows=1, digest="1")
    file.close()


def test_what_is_behind_the_last_window_is_cut_off(tmp_path: Path) -> None:
    start(tmp_path / "out")
    with (tmp_path / "out.part").open("ab") as part:
        part.write(b"half a li")
    file = ResumableFile(tmp_path / "out", identity=IDENTITY, threads=2, resume=True)
    assert (file.rows, file.digest, file.threads, file.complete) == (2, "1", 3, False)
    assert (tmp_path / "out.part").read_bytes() == WINDOWS[0] + WINDOWS[1]
    file.close()
    assert run(tmp_path / "out").rows == 4
    assert (tmp_path / "out").read_bytes() == WHOLE


def test_what_another_run_left_is_not_overwritten(tmp_path: Path) -> None:
    start(tmp_path / "out")
    with pytest.raises(WriteError, match="--resume"):
        run(tmp_path / "out", resume=False)
    (tmp_path / "other.part").write_bytes(b"somebody's")
    with pytest.raises(WriteError, match="a file of that name") as error:
        run(tmp_path / "other")
    assert "--resume" not in str(error.value)  # which was given
    assert (tmp_path / "other.part").read_bytes() == b"somebody's"


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    start(tmp_path / "out")
    with pytest.raises(InputError) as error:
        run(tmp_path / "out", identity={**IDENTITY, "model": "n", "columns": ["a"]})
    assert error.value.found == "columns: ['a', 'b']; model: m"
    assert error.value.expected == "columns: ['a']; model: n"
    assert (tmp_path / "out.part").read_bytes() == WINDOWS[0] + WINDOWS[1]


def test_a_complete_file_is_left_alone_by_the_same_run_only(tmp_path: Path) -> None:
    run(tmp_path / "out")
    assert run(tmp_path / "out").complete
    with pytest.raises(InputError, match="finished file is from another run") as refused:
        run(tmp_path / "out", identity={**IDENTITY, "model": "n"})
    assert "found: model: m" in str(refused.value)
    assert (tmp_path / "out").read_bytes() == WHOLE
    assert not run(tmp_path / "out", identity={**IDENTITY, "model": "n"}, resume=False).complete
    (tmp_path / "out").unlink()
    assert not run(tmp_path / "out", identity={**IDENTITY, "model": "n"}).complete


NEGATIVE = json.dumps(
    {"identity": IDENTITY, "final_bytes": None, "rows": 1, "problems": 0, "bytes": -1, "digest": "", "threads": 1}
)


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"identity": 3}', "\0", NEGATIVE])
def test_a_state_that_cannot_be_read_is_said(tmp_path: Path, state: str) -> None:
    start(tmp_path / "out")
    (tmp_path / "out.part.json").write_text(state, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        run(tmp_path / "out")


def test_a_file_that_lost_its_end_is_said(tmp_path: Path) -> None:
    start(tmp_path / "out")
    (tmp_path / "out.part").write_bytes(b"he")
    with pytest.raises(InputError, match="shorter"):
        run(tmp_path / "out")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WriteError):
        run(tmp_path / "no" / "out")


def test_the_final_form_can_be_another(tmp_path: Path) -> None:
    file = ResumableFile(tmp_path / "out", identity=IDENTITY, threads=1, resume=False)
    file.append(b"one\n", rows=1, digest="")

    def convert(part: Path, target: Path) -> None:
        target.write_bytes(part.read_bytes().upper())

    file.finish(convert=convert)
    assert (tmp_path / "out").read_bytes() == b"ONE\n"
    assert names(tmp_path) == {"out", "out.meta.json"}
