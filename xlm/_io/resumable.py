"""Output files of runs that can be resumed after they are killed.

While a run writes, its output file is called ``NAME.part`` and is locked. ``NAME.part.json`` holds the identity of the
run and its progress: the number of input rows that are done, and the number of bytes of their output that are on disk.
``NAME.part.json`` is replaced atomically after each window of rows. Any further bytes of ``NAME.part`` belong to an
unfinished window, so a resumed run cuts them off. ``NAME.meta.json`` holds the same data for the finished file.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from xlm._io.atomic import errors_of_writing, refuse_special
from xlm.errors import InputError, WriteError

if sys.platform != "win32":  # Windows does not have fcntl, so nothing there keeps two runs from writing the same file
    import fcntl

_SUFFIXES = ("", ".part", ".part.json", ".part.tmp", ".meta.json")


class ResumableFile:
    """Output file that grows by whole windows of rows and gets its final name when it is complete.

    Args:
        target: The file to make or to replace; its directory must exist. Links are followed.
        identity: What identifies the run, as JSON values; only a run with an equal identity can resume the file.
        threads: Number of threads that this run computes with.
        resume: Whether to continue an earlier run with the same identity; if there is no earlier run, a new run starts.

    Attributes:
        target: The file, with links followed.
        rows: Number of input rows that are done.
        problems: Number of these rows without a result.
        counts: Further numbers of the rows that are done, by name.
        size: Number of bytes of output, a header included.
        digest: The ``digest`` passed to the last ``append``; it identifies the rows that are done.
        complete: Whether the file is finished; the caller checks whether it belongs to the same input.
        threads: Number of threads of the run that began the file; with another number, results can round differently.

    Raises:
        InputError: The run to resume has another identity, or its files have changed.
        WriteError: An unfinished file exists but ``resume`` is false, another run is writing the file, the target is
            not a regular file, or the files could not be written.
    """

    def __init__(self, target: Path, *, identity: Mapping[str, Any], threads: int, resume: bool) -> None:
        self.target = real_target(target)
        _, self._part, self._state, self._temporary, self._meta = written_beside(self.target)
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self.rows, self.problems, self.size, self.digest = 0, 0, 0, ""
        self.counts: Counter[str] = Counter()
        self.threads = threads
        self.complete = False
        self._file: io.FileIO | None = None
        try:
            with errors_of_writing(self._part):
                if resume and not self._part.exists() and not self._state.exists() and self._is_done():
                    self.complete = True
                else:
                    self._open(resume=resume)
        except BaseException:
            self.close()
            raise

    def _open(self, *, resume: bool) -> None:
        is_new = not self._part.exists()
        # Open the file without a buffer: with one, close() after a failed write would try to write the buffered data
        # again and fail too.
        self._file = self._part.open("a+b", buffering=0)
        self._lock(self._file)
        try:
            self._begin(resume=resume)
        except Exception:
            if is_new:
                self._part.unlink()
            raise

    def _lock(self, file: BinaryIO) -> None:
        """Lock the unfinished file against other runs for as long as it is open."""
        if sys.platform == "win32":
            return
        busy = WriteError(
            "another run is writing this file", where=self._part, remedy="wait for it, or write somewhere else"
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            return  # this file system has no locks
        # Between opening and locking the file here, another run may have finished the file and renamed it.
        if not self._part.exists() or not os.path.samestat(os.fstat(file.fileno()), self._part.stat()):
            raise busy

    def _begin(self, *, resume: bool) -> None:
        assert self._file is not None
        length = self._part.stat().st_size
        started = self._state.exists()
        # An empty file without a state is no problem: a run that is killed at its very start leaves it.
        if (started or length) and not (resume and started):
            raise WriteError(
                "an unfinished file is in the way",
                where=self._part,
                found="the output of an interrupted run" if started else "a file of that name",
                remedy="continue it (--resume), or remove it and its .part.json"
                if started
                else "remove it, or write somewhere else",
            )
        if started:
            self._continue(length)
        else:
            self._save_state()
        if self.complete:
            self._part.unlink()
            self._state.unlink()
            self.close()
        else:
            self._file.truncate(self.size)

    def _continue(self, length: int) -> None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            identity, final_size = dict(state["identity"]), state["final_bytes"]
            self.rows, self.problems, self.size = int(state["rows"]), int(state["problems"]), int(state["bytes"])
            self.counts = _counts(state["counts"])
            self.digest, self.threads = str(state["digest"]), int(state["threads"])
            if min(self.rows, self.problems, self.size, *self.counts.values()) < 0 or self.threads < 1:
                raise ValueError("a number is too small")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "the state of the interrupted run cannot be read",
                where=self._state,
                found=repr(error),
                remedy="remove this file and the .part beside it, and start again",
            ) from error
        check_same_run(
            identity, self._identity, where=self._state, otherwise="remove this file and the .part beside it"
        )
        if final_size is not None and not length and (self.size or self._target_size() == final_size):
            # The run was interrupted after it moved the file to its target.
            self._check_target(final_size)
            self._write_meta(final_size)
            self.complete = True
        elif length < self.size:
            raise InputError(
                "the unfinished file is shorter than what was written to it",
                where=self._part,
                found=f"{length:,} bytes",
                expected=f"{self.size:,} bytes or more",
                remedy="remove it and its .part.json, and start again",
            )

    def _is_done(self) -> bool:
        try:
            meta = json.loads(self._meta.read_text(encoding="utf-8"))
            digest = str(meta.pop("digest"))
            counts = _counts(meta.pop("counts"))
            numbers = [int(meta.pop(name)) for name in ("rows", "problems", "threads", "bytes")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not self.target.exists():
            return False
        check_same_run(
            meta,
            self._identity,
            where=self._meta,
            otherwise="start again without --resume, which replaces the finished file",
            what="the finished file is from another run",
        )
        self.rows, self.problems, self.threads, self.size = numbers
        self.counts, self.digest = counts, digest
        self._check_target(self.size)
        return True

    def _target_size(self) -> int | None:
        return self.target.stat().st_size if self.target.exists() else None

    def _check_target(self, expected: int) -> None:
        size = self._target_size()
        if size != expected:
            raise InputError(
                "the finished file is not what the run wrote",
                where=self.target,
                found="no such file" if size is None else f"{size:,} bytes",
                expected=f"{expected:,} bytes",
                remedy="remove its .part.json if there is one, and start again without --resume",
            )

    def append(
        self, data: bytes, *, rows: int, digest: str, problems: int = 0, counts: Mapping[str, int] | None = None
    ) -> None:
        """Append the output of more rows, and record the rows as done once the output is on disk.

        Args:
            data: The output of whole rows; may be empty.
            rows: Number of input rows that the output covers.
            digest: Identifies all rows done so far.
            problems: Number of these rows without a result.
            counts: Further numbers of these rows, by name, to add up.

        Raises:
            WriteError: The files could not be written.
        """
        assert self._file is not None
        with errors_of_writing(self._part):
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        self.rows += rows
        self.problems += problems
        self.counts.update(counts or {})
        self.size += len(data)
        self.digest = digest
        self._save_state()

    def finish(self, *, convert: Callable[[Path, Path], None] | None = None) -> None:
        """Give the complete file its final name.

        Args:
            convert: Converts the file at its first argument to the final file at its second argument; ``None`` if no
                conversion is needed.

        Raises:
            WriteError: The files could not be written.
        """
        if sys.platform == "win32":
            self.close()  # Windows cannot move an open file; elsewhere the file stays open, so the lock is held
        try:
            with errors_of_writing(self.target):
                if convert is None:
                    self._save_state(final_size=self.size)
                    self._part.replace(self.target)
                    self._write_meta(self.size)
                else:
                    self._replace(self.target, lambda temporary: convert(self._part, temporary))
                    final_size = self.target.stat().st_size
                    self._save_state(final_size=final_size)
                    self._write_meta(final_size)
                    self._part.unlink()
                self._state.unlink()
        finally:
            self.close()

    def close(self) -> None:
        """Close the files, so that the run can be resumed."""
        if self._file is not None:
            self._file.close()

    def _save_state(self, *, final_size: int | None = None) -> None:
        progress = {**self._progress(), "bytes": self.size, "final_bytes": final_size}
        self._write_json(self._state, {"identity": self._identity, **progress})

    def _write_meta(self, final_size: int) -> None:
        self._write_json(self._meta, {**self._identity, **self._progress(), "bytes": final_size})

    def _progress(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("rows", "problems", "counts", "digest", "threads")}

    def _write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        data = (json.dumps(values, indent=1) + "\n").encode("utf-8")
        self._replace(path, lambda temporary: _write_bytes(temporary, data))

    def _replace(self, path: Path, write: Callable[[Path], None]) -> None:
        """Replace a file of the run atomically; ``write`` is called with a path, and creates the new file there."""
        # While the lock is held, only this run uses the temporary name. A file that a killed run left there is
        # overwritten.
        with errors_of_writing(path):
            try:
                self._temporary.unlink(missing_ok=True)
                write(self._temporary)
                with self._temporary.open("r+b") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(path)
            except OSError:
                with suppress(OSError):
                    self._temporary.unlink()
                raise


def _counts(values: Any) -> Counter[str]:
    return Counter({str(name): int(count) for name, count in values.items()})


def check_same_run(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    where: object,
    otherwise: str,
    what: str = "the interrupted run differs from this run",
) -> None:
    """Check that the run to resume has the identity of this run.

    Args:
        found: Identity of the run to resume.
        expected: Identity of this run.
        where: The file that holds ``found``.
        otherwise: What the user can do instead of resuming, for the message.
        what: What is wrong, for the message.

    Raises:
        InputError: The identities differ; the message names every difference.
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
    where: object, *, found: str, otherwise: str, expected: str = "the rows of the run to resume"
) -> InputError:
    """Return the error for a run that is resumed with a different input.

    Args:
        where: The input, or the part of the input that changed.
        found: What the input holds now.
        otherwise: What the user can do instead of resuming, for the message.
        expected: What the input held when the run began.
    """
    return InputError(
        "the input differs from that of the run to resume",
        where=where,
        found=found,
        expected=expected,
        remedy=otherwise,
    )


def real_target(target: Path) -> Path:
    """Return the path of an output file with links followed.

    Raises:
        WriteError: The path exists and is not a regular file, or a file name is invalid or too long.
    """
    with errors_of_writing(target):
        refuse_special(target)
        target = Path(os.path.realpath(target))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path in written_beside(target):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.lstat()  # this raises an OSError if the name is too long
    return target


def written_beside(target: Path) -> list[Path]:
    """Return the paths of all files that a run may write for a target: output, state, temporary and meta files."""
    return [target.with_name(target.name + suffix) for suffix in _SUFFIXES]


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
