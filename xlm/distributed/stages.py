"""What runs on the cluster: a reader that cuts files into units, and workers that write a part for each.

Between the stages of a dataset go tables of one row and one column of bytes, JSON: units, and what has become of them.
"""

from __future__ import annotations

import json
import socket
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm import errors
from xlm._io.resumable import other_input_error
from xlm.corpus.files import InputFile
from xlm.corpus.formats import import_pyarrow
from xlm.corpus.rows import Corpus
from xlm.distributed.output import Output, Record
from xlm.distributed.units import Unit, units_of
from xlm.errors import InputError, WriteError, XLMError, XLMWarning

if TYPE_CHECKING:
    from xlm.distributed.work import Step, Work

UNIT, RESULT, TASK = "unit", "result", "task"
"""Columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How files are read and cut.

    Attributes:
        form: As for ``Corpus``.
        column: As for ``Corpus``.
        read_at_once: As for ``units_of``.
        windows_per_unit: As for ``units_of``.
    """

    form: str | None
    column: str | None
    read_at_once: int
    windows_per_unit: int


def read_units(tasks: Any, *, files: Sequence[InputFile], reading: Reading) -> Iterator[Any]:
    """Reads files, and yields a table of one row for each of their units that is not done.

    Args:
        tasks: A table of tasks: number of a file, and of its units that are done the digests and whether each is the
            last.
        files: All files.
        reading: How they are read.
    """
    for task in tasks.column(TASK).to_pylist():
        file, done = json.loads(task)
        corpus = Corpus([files[file]], format=reading.form, column=reading.column)
        try:
            with closing(corpus), warnings.catch_warnings():
                warnings.simplefilter("ignore", XLMWarning)  # units carry what the corpus warns of
                for unit in units_of(
                    corpus,
                    file=file,
                    read_at_once=reading.read_at_once,
                    windows_per_unit=reading.windows_per_unit,
                ):
                    if unit.damaged and any(int(index) >= unit.index for index in done):
                        # No other input, but one that could be read further before, and perhaps can again.
                        error = _cut_short(files[file].name, unit)
                        yield table_of(UNIT, json.dumps(described(error, again=True)).encode())
                        continue
                    digest, last = done.get(str(unit.index), (None, None))
                    if digest is None or (digest == unit.digest and last != unit.last):
                        yield table_of(UNIT, unit.to_bytes())
                    elif digest != unit.digest:
                        raise other_input_error(
                            files[file].name, found="other texts", otherwise="start again, in another directory"
                        )
        except Exception as error:  # a worker hands it on to where it is shown
            yield table_of(UNIT, json.dumps(described(error)).encode())


def _cut_short(name: str, unit: Unit) -> InputError:
    return InputError(
        "the input cannot be read as far as before",
        where=name,
        found=unit.windows[-1][-1].problem,
        remedy="run it again with --resume when it can",
    )


class PartWriter:
    """Does the work on units, and writes the part of each.

    Args:
        work: What is to be done; loaded with the first unit.
        identity: Of the work, as it was checked where it was given out.
        output: Where parts go.
    """

    def __init__(self, work: Work, identity: dict[str, Any], output: Output) -> None:
        self._work, self._identity, self._output = work, identity, output
        self._step: Step | None = None

    def __call__(self, units: Any) -> Any:
        """Returns a table of what has become of the units in one: records, or errors.

        Nothing is raised: Ray would take it for an accident of the machine.
        """
        found = [self._described(data) for data in units.column(UNIT).to_pylist()]
        return table_of(RESULT, *(json.dumps(each).encode() for each in found))

    def _described(self, data: bytes) -> dict[str, Any]:
        if data.startswith(b"{"):
            return dict(json.loads(data))
        try:
            return asdict(self._record(Unit.from_bytes(data)))
        except Exception as error:
            return described(error)

    def _record(self, unit: Unit) -> Record:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", XLMWarning)
            self._step = self._step or self._work.start(self._identity)
            record = self._written(unit, self._step, caught)
        self._output.add_record(record)
        return record

    def _written(self, unit: Unit, step: Step, caught: list[warnings.WarningMessage]) -> Record:
        import torch

        from xlm.inference.loading import processor_name

        counts: Counter[str] = Counter()
        problems, reasons = 0, []
        with tempfile.TemporaryDirectory(prefix="xlm-") as directory:
            lines, finished = Path(directory, "lines"), Path(directory, "part")
            with lines.open("wb") as file:
                file.write(self._work.header)
                for window in unit.windows:
                    found = step.lines(window, file=unit.file)
                    file.write(found.data)
                    counts.update(found.counts)
                    problems += found.problems
                    reasons += found.reasons
            step.finish(lines, finished)
            size = self._output.add_part((unit.file, unit.index), finished)
        return Record(
            file=unit.file,
            unit=unit.index,
            rows=sum(map(len, unit.windows)),
            problems=problems,
            reasons=reasons[:5],
            counts=dict(counts),
            digest=unit.digest,
            bytes=size,
            last=unit.last,
            damaged=unit.damaged,
            processor=processor_name(torch.device(self._identity.get("device", "cpu"))),
            warnings=sorted(
                {*unit.warnings, *(str(each.message) for each in caught if issubclass(each.category, XLMWarning))}
            ),
        )


def table_of(column: str, *cells: bytes) -> Any:
    """A table of one column of bytes."""
    pyarrow, _ = import_pyarrow()
    return pyarrow.table({column: pyarrow.array(cells, pyarrow.large_binary())})


def described(error: Exception, *, again: bool = False) -> dict[str, Any]:
    """An error with the name of this machine, as what can be sent to another as JSON.

    Args:
        error: The error.
        again: Whether the same may well succeed later; true of all errors of disks and networks.
    """
    # What we say of a directory, and no system has said, stays so.
    again = again or isinstance(error.__cause__ if isinstance(error, WriteError) else error, OSError)
    host = socket.gethostname()
    if isinstance(error, XLMError):
        fields = {name: getattr(error, name) for name in ("found", "expected", "remedy")}
        of_error = {name: None if value is None else str(value) for name, value in fields.items()}
        where = host if error.where is None else f"{error.where}, on {host}"
        return {"error": type(error).__name__, "what": error.what, "where": where, **of_error, "again": again}
    return {
        "error": "XLMError",
        "what": f"a worker failed: {type(error).__name__}: {error}",
        "where": host,
        "found": "".join(traceback.format_exception(error)).rstrip(),
        "expected": None,
        "remedy": None,
        "again": again,
    }


def rebuilt(found: dict[str, Any]) -> XLMError:
    """The error that ``described`` was given; another kind comes as ``XLMError``, with its traceback."""
    kind = getattr(errors, found["error"])
    error: XLMError = kind(found["what"], **{name: found[name] for name in ("where", "found", "expected", "remedy")})
    return error
