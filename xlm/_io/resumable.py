"""Output files of runs that can be resumed after they are killed.

While it is written the file is called ``NAME.part``, and locked. ``NAME.part.json`` says what the run is (``identity``)
and up to where everything is on disk: how many input rows are done and how many bytes they took. It is replaced as a
whole after each window of rows, so that whatever stands behind that many bytes is of an unfinished window and is cut
off. Beside the finished file, ``NAME.meta.json`` says the same of all of it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from xlm._io.atomic import refuse_special, write_error
from xlm.errors import InputError, WriteError, XLMError

if sys.platform != "win32":  # where nothing keeps two runs apart
    import fcntl

_SUFFIXES = ("", ".part", ".part.json", ".part.tmp", ".meta.json")


class ResumableFile:
    """Output that grows by whole windows of rows and is renamed when it is complete.

    Args:
        target: The file to make or to replace; its directory must exist. Links are followed.
        identity: What the run is: a run with another one must not go on with this file. JSON values.
        threads: Threads that this run computes with.
        resume: Go on where a run of the same identity stopped; start when there is none.

    Attributes:
        rows: Input rows that are done.
        problems: How many of them could not be scored.
        unknown: How many tokens of the others are ``<unk>``.
        size: Bytes that they took, with whatever stands before them.
        digest: What the last ``append`` gave: identifies the rows that are done.
        complete: Whether the file is finished; whether it is of the same input is for the caller to check.
        threads: Threads of the run that began the file; other numbers of threads can round otherwise.

    Raises:
        InputError: The file, finished or not, is of a run with another identity and is to be resumed, or a file is not
            as it was left.
        WriteError: An unfinished file is there and is not to be resumed, another run is writing it, the target is no
            regular file, or the files could not be written.
    """

    def __init__(self, target: Path, *, identity: Mapping[str, Any], threads: int, resume: bool) -> None:
        self._files = RunFiles(target)
        self.target = self._files.target
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self.rows, self.problems, self.unknown, self.size, self.digest = 0, 0, 0, 0, ""
        self.threads = threads
        self.complete = False
        self._file: io.FileIO | None = None
        try:
            if resume and not self._files.part.exists() and not self._files.state.exists() and self._is_done():
                self.complete = True
            else:
                self._open(resume=resume)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, XLMError):
                raise write_error(self._files.part, error) from error
            raise

    def _open(self, *, resume: bool) -> None:
        made = not self._files.part.exists()
        # Without a buffer: what could not be written is then not written again, and complained of again, by close().
        self._file = self._files.part.open("a+b", buffering=0)
        self._files.lock(self._file)
        try:
            self._begin(resume=resume)
        except Exception:
            if made:
                self._files.part.unlink()
            raise

    def _begin(self, *, resume: bool) -> None:
        assert self._file is not None
        length = self._files.part.stat().st_size
        started = self._files.state.exists()
        # An empty file without a state is what a run leaves that is killed at once.
        if (started or length) and not (resume and started):
            raise WriteError(
                "an unfinished file is in the way",
                where=self._files.part,
                found="the output of a run that was cut off" if started else "a file of that name",
                remedy="go on with it (--resume), or remove it and its .part.json"
                if started
                else "remove it, or write somewhere else",
            )
        if started:
            self._take_up(length)
        else:
            self._save_state()
        if self.complete:
            self._files.part.unlink()
            self._files.state.unlink()
            self.close()
        else:
            self._file.truncate(self.size)

    def _take_up(self, length: int) -> None:
        try:
            state = json.loads(self._files.state.read_text(encoding="utf-8"))
            identity, final_size = dict(state["identity"]), state["final_bytes"]
            self.rows, self.problems, self.size = int(state["rows"]), int(state["problems"]), int(state["bytes"])
            self.unknown = int(state["unknown"])
            self.digest, self.threads = str(state["digest"]), int(state["threads"])
            if min(self.rows, self.problems, self.unknown, self.size) < 0 or self.threads < 1:
                raise ValueError("a number below zero")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "the state of the run that was cut off cannot be read",
                where=self._files.state,
                found=repr(error),
                remedy="remove this file and the .part beside it, and start again",
            ) from error
        check_same_run(
            identity, self._identity, where=self._files.state, otherwise="remove this file and the .part beside it"
        )
        if final_size is not None and not length and (self.size or self._target_size() == final_size):
            # It was cut off after the move.
            self._check_target(final_size)
            self._write_meta(final_size)
            self.complete = True
        elif length < self.size:
            raise InputError(
                "the unfinished file is shorter than what was written to it",
                where=self._files.part,
                found=f"{length:,} bytes",
                expected=f"{self.size:,} bytes or more",
                remedy="remove it and its .part.json, and start again",
            )

    def _is_done(self) -> bool:
        try:
            meta = json.loads(self._files.meta.read_text(encoding="utf-8"))
            digest = str(meta.pop("digest"))
            of_run = [int(meta.pop(name)) for name in ("rows", "problems", "unknown", "threads", "bytes")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not self.target.exists():
            return False
        check_same_run(
            meta,
            self._identity,
            where=self._files.meta,
            otherwise="start again without --resume, which replaces the finished file",
            what="the finished file is of another run",
        )
        self.rows, self.problems, self.unknown, self.threads, self.size = of_run
        self.digest = digest
        self._check_target(self.size)
        return True

    def _target_size(self) -> int | None:
        return self.target.stat().st_size if self.target.exists() else None

    def _check_target(self, size: int) -> None:
        found = self._target_size()
        if found != size:
            raise InputError(
                "the finished file is not what the run wrote",
                where=self.target,
                found="no such file" if found is None else f"{found:,} bytes",
                expected=f"{size:,} bytes",
                remedy="remove its .part.json if there is one, and start again without --resume",
            )

    def append(self, data: bytes, *, rows: int, digest: str, problems: int = 0, unknown: int = 0) -> None:
        """Append the output of more rows, and record them as done once it is on disk.

        Args:
            data: The output of whole rows; may be empty.
            rows: How many input rows it is of.
            digest: Identifies all rows up to here.
            problems: How many of the rows could not be scored.
            unknown: How many tokens of the others are ``<unk>``.

        Raises:
            WriteError: The files could not be written.
        """
        assert self._file is not None
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self._files.part, error) from error
        self.rows += rows
        self.problems += problems
        self.unknown += unknown
        self.size += len(data)
        self.digest = digest
        self._save_state()

    def finish(self, *, convert: Callable[[Path, Path], None] | None = None) -> None:
        """Rename the complete file to its target.

        Args:
            convert: Writes the final form of its first argument to its second; ``None`` when that is the same.

        Raises:
            WriteError: The files could not be written.
        """
        if sys.platform == "win32":
            self.close()  # Windows moves no open file; elsewhere the lock is held to the end
        try:
            if convert is None:
                self._save_state(final_size=self.size)
                self._files.part.replace(self.target)
                self._write_meta(self.size)
            else:
                self._files.replace(self.target, lambda temporary: convert(self._files.part, temporary))
                final_size = self.target.stat().st_size
                self._save_state(final_size=final_size)
                self._write_meta(final_size)
                self._files.part.unlink()
            self._files.state.unlink()
        except XLMError:
            raise
        except OSError as error:
            raise write_error(self.target, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Close the files, so that the run can be resumed."""
        if self._file is not None:
            self._file.close()

    def _save_state(self, *, final_size: int | None = None) -> None:
        self._files.write_json(
            self._files.state,
            {"identity": self._identity, **self._of_run(), "bytes": self.size, "final_bytes": final_size},
        )

    def _write_meta(self, final_size: int) -> None:
        self._files.write_json(self._files.meta, {**self._identity, **self._of_run(), "bytes": final_size})

    def _of_run(self) -> dict[str, Any]:
        names = ("rows", "problems", "unknown", "digest", "threads")
        return {name: getattr(self, name) for name in names}


class RunFiles:
    """The files of a run: a target and those beside it.

    Args:
        target: The file to make or to replace; its directory must exist. Links are followed.

    Attributes:
        target: Where it really is.
        part: Its unfinished form.
        state: How far that is.
        temporary: What is about to replace one of the others.
        meta: What the finished file is.

    Raises:
        WriteError: The target is no regular file, or cannot be one.
    """

    def __init__(self, target: Path) -> None:
        self.target = real_target(target)
        _, self.part, self.state, self.temporary, self.meta = written_beside(self.target)

    def lock(self, file: BinaryIO) -> None:
        """Lock the unfinished file against other runs for as long as it is open.

        Raises:
            WriteError: Another run has it.
        """
        if sys.platform == "win32":
            return
        busy = WriteError(
            "another run is writing this file", where=self.part, remedy="wait for it, or write somewhere else"
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            return  # a file system without locks
        # The other run can have ended, and moved the file away, between our opening and our locking it.
        if not self.part.exists() or not os.path.samestat(os.fstat(file.fileno()), self.part.stat()):
            raise busy

    def write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        """Replace one of the files by JSON values.

        Raises:
            WriteError: It could not be written.
        """
        data = (json.dumps(values, indent=1) + "\n").encode("utf-8")
        self.replace(path, lambda temporary: _write_bytes(temporary, data))

    def replace(self, path: Path, write: Callable[[Path], None]) -> None:
        """Replace one of the files atomically.

        Args:
            path: Which.
            write: Makes the new one under the name it is given.

        Raises:
            WriteError: It could not be written.
        """
        # One name, which the lock makes ours, so that a killed run's leftover is overwritten and not one more file.
        try:
            self.temporary.unlink(missing_ok=True)
            write(self.temporary)
            with self.temporary.open("r+b") as file:
                os.fsync(file.fileno())
            self.temporary.replace(path)
        except XLMError:
            raise
        except OSError as error:
            with suppress(OSError):
                self.temporary.unlink()
            raise write_error(path, error) from error


def check_same_run(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    where: object,
    otherwise: str,
    what: str = "the run that was cut off was another one",
) -> None:
    """Refuse to resume another run.

    Args:
        found: What the other run is.
        expected: What this one is.
        where: The file that says so.
        otherwise: What to do instead of resuming.
        what: What is wrong.

    Raises:
        InputError: They differ; the message names all that does.
    """
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if differing:
        raise InputError(
            what,
            where=where,
            found="; ".join(f"{key}: {found.get(key)}" for key in differing),
            expected="; ".join(f"{key}: {expected.get(key)}" for key in differing),
            remedy=f"resume with the same model, inputs and options, or {otherwise}",
        )


def other_input_error(
    where: object, *, found: str, otherwise: str, expected: str = "the same rows as then"
) -> InputError:
    """Return the error for a run that is resumed with another input than it began with.

    Args:
        where: The input, or the part of it that changed.
        found: What the input holds now.
        otherwise: What to do instead of resuming.
        expected: What the input held when the run began.
    """
    return InputError(
        "the input is not that of the run that is to be resumed",
        where=where,
        found=found,
        expected=expected,
        remedy=otherwise,
    )


def real_target(target: Path) -> Path:
    """Return the path of an output file with links followed.

    Raises:
        WriteError: Something that is no regular file has that name, or no file can.
    """
    try:
        refuse_special(target)
        target = Path(os.path.realpath(target))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path in written_beside(target):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.lstat()  # raises for a name that is too long
    except WriteError:
        raise
    except OSError as error:
        raise write_error(target, error) from error
    return target


def written_beside(target: Path) -> list[Path]:
    """Return every file that is written for a target: itself, unfinished, state, temporary file and description."""
    return [target.with_name(target.name + suffix) for suffix in _SUFFIXES]


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
