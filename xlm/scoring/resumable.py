"""An output file that a killed run leaves in a state from which the same run can go on.

While it is written the file is called ``NAME.part``. ``NAME.part.json`` says what the run is (``identity``) and up to
where everything is on disk: how many input rows are done and how many bytes they took. It is replaced as a whole after
each window of rows, so that whatever stands behind that many bytes is of an unfinished window and is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xlm._atomic import replacing, write_error, write_text
from xlm.errors import InputError, WriteError


class ResumableFile:
    """Output that grows by whole windows of rows and takes its name when it is complete.

    Args:
        target: The file to make or to replace; its directory must exist.
        identity: What the run is: a run with another one must not go on with this file. JSON values.
        resume: Go on where a run of the same identity stopped; start when there is none.

    Attributes:
        rows: Input rows that are done.
        size: Bytes that they took, with whatever stands before them.
        digest: What the last ``append`` gave: identifies the rows that are done.
        complete: Whether nothing is left to do.
        threads: Threads of the run that began the file; other numbers of threads can round otherwise.

    Raises:
        InputError: The unfinished file is of a run with another identity.
        WriteError: An unfinished file is there and is not to be resumed, or the files could not be written.
    """

    def __init__(self, target: Path, *, identity: Mapping[str, Any], threads: int, resume: bool) -> None:
        self.target = target
        self._part = target.with_name(target.name + ".part")
        self._state_file = target.with_name(target.name + ".part.json")
        self._meta_file = target.with_name(target.name + ".meta.json")
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self.rows, self.size, self.digest = 0, 0, ""
        self.complete = False
        self.threads = threads
        unfinished = self._state_file.exists() or self._part.exists()
        if unfinished and not (resume and self._state_file.exists()):
            raise WriteError(
                "an unfinished file is in the way",
                where=self._part,
                found="the output of a run that was cut off" if self._state_file.exists() else "a file of that name",
                remedy="go on with it (--resume), or remove it and its .part.json",
            )
        if unfinished:
            self._take_up()
        elif resume and self._is_done():
            self.complete = True
        else:
            self._save_state(finished=False)
        if not self.complete:
            try:
                self._file = self._part.open("r+b" if self._part.exists() else "wb")
                self._file.truncate(self.size)
                self._file.seek(self.size)
            except OSError as error:
                raise write_error(self._part, error) from error

    def _take_up(self) -> None:
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
            identity, finished = dict(state["identity"]), state["finished"]
            self.rows, self.size = int(state["rows"]), int(state["bytes"])
            self.digest, self.threads = str(state["digest"]), int(state["threads"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "the state of the run that was cut off cannot be read",
                where=self._state_file,
                found=repr(error),
                remedy="remove this file and the .part beside it, and start again",
            ) from error
        differing = sorted(
            key for key in identity.keys() | self._identity.keys() if identity.get(key) != self._identity.get(key)
        )
        if differing:
            raise InputError(
                "the run that was cut off was another one",
                where=self._state_file,
                found="; ".join(f"{key}: {identity.get(key)}" for key in differing),
                expected="; ".join(f"{key}: {self._identity.get(key)}" for key in differing),
                remedy="resume with the same model, inputs and options, or remove this file and the .part beside it",
            )
        length = self._part.stat().st_size if self._part.exists() else 0
        if finished and not self._part.exists():
            self._state_file.unlink()  # it was cut off after everything else
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
            meta = json.loads(self._meta_file.read_text(encoding="utf-8"))
            return self.target.exists() and meta == {**self._identity, "rows": meta["rows"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def append(self, data: bytes, *, rows: int, digest: str) -> None:
        """Writes the output of some more rows, and notes that they are done once it is on disk.

        Args:
            data: The output of whole rows; may be empty.
            rows: How many input rows it is of.
            digest: Identifies all rows up to here.

        Raises:
            WriteError: The files could not be written.
        """
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self._part, error) from error
        self.rows += rows
        self.size += len(data)
        self.digest = digest
        self._save_state(finished=False)

    def finish(self, *, convert: Callable[[Path, Path], None] | None = None) -> None:
        """Gives the file its name.

        Args:
            convert: Writes the final form of its first argument to its second; ``None`` when that is the same.

        Raises:
            WriteError: The files could not be written.
        """
        self._file.close()
        if convert is not None:
            with replacing(self.target) as temporary:
                convert(self._part, temporary)
        self._save_state(finished=True)
        write_text(self._meta_file, json.dumps({**self._identity, "rows": self.rows}, indent=1) + "\n")
        try:
            if convert is None:
                self._part.replace(self.target)
            else:
                self._part.unlink()
            self._state_file.unlink()
        except OSError as error:
            raise write_error(self.target, error) from error

    def close(self) -> None:
        """Leaves everything as it is, to be resumed."""
        if not self.complete:
            self._file.close()

    def _save_state(self, *, finished: bool) -> None:
        state = {
            "identity": self._identity,
            "rows": self.rows,
            "bytes": self.size,
            "digest": self.digest,
            "threads": self.threads,
            "finished": finished,
        }
        write_text(self._state_file, json.dumps(state, indent=1) + "\n")
