"""Files that are filled by several runs.

Oracle: the bytes of a run that nothing stopped; and every state that a run can be stopped in, made by stopping it
there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xlm.errors import InputError, WriteError
from xlm.scoring.resumable import ResumableFile

WINDOWS = [b"head\n", b"one\ntwo\n", b"", b"three\n"]
WHOLE = b"".join(WINDOWS)
IDENTITY = {"model": "m", "columns": ["a", "b"], "inputs": [("x", 3)]}


class Killed(BaseException):
    pass


def run(target: Path, *, resume: bool = True, identity: dict[str, object] | None = None) -> ResumableFile:
    file = ResumableFile(target, identity=identity or IDENTITY, threads=2, resume=resume)
    try:
        if not file.complete:
            for i in range(file.rows, len(WINDOWS)):
                file.append(WINDOWS[i], rows=1, digest=str(i))
            file.finish()
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
    assert meta == {"model": "m", "columns": ["a", "b"], "inputs": [["x", 3]], "rows": 4}


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


def test_stopped_anywhere_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    stop_at, stopped = 0, True
    while stopped:
        stop_at += 1
        directory = tmp_path / str(stop_at)
        directory.mkdir()
        target = directory / "out"
        with pytest.MonkeyPatch.context() as patch:
            stop_after(stop_at, patch)
            try:
                run(target)
                stopped = False
            except Killed:
                pass
        run(target)
        assert target.read_bytes() == WHOLE
        # What was being written under a name of its own when the process died can stay.
        assert {name for name in names(directory) if not name.endswith(".tmp")} == {"out", "out.meta.json"}
    assert stop_at > 30


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
    with pytest.raises(WriteError, match="a file of that name"):
        run(tmp_path / "other")
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
    assert not run(tmp_path / "out", identity={**IDENTITY, "model": "n"}).complete
    (tmp_path / "out").unlink()
    assert not run(tmp_path / "out", identity={**IDENTITY, "model": "n"}).complete


@pytest.mark.parametrize("state", ["", "{}", "[]", '{"identity": 3}', "\0"])
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
