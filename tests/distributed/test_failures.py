"""``--engine ray`` without a cluster, when disks, networks and workers fail.

Oracle: the bytes that the local command writes when nothing fails; the documented messages.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.distributed.conftest import ClusterError, Engine
from tests.distributed.runs import joined, parts
from xlm.corpus.rows import Corpus
from xlm.distributed import pipeline
from xlm.distributed.output import Output
from xlm.distributed.run import Run
from xlm.errors import InputError, WriteError

pytest.importorskip("pyarrow")

ROWS = 100
ROWS_A_PART = 20
Breaks = Callable[[int, int], bool]


@pytest.fixture
def command(model: list[str], tmp_path: Path) -> list[str]:
    """A command that scores a hundred rows, twenty per part."""
    text = tmp_path / "a.txt"
    text.write_text("".join(f"the small dog {number}\n" for number in range(ROWS)))
    return ["score", *model, str(text), "--read-ahead", str(ROWS_A_PART)]


@pytest.fixture
def ray(tmp_path: Path) -> list[str]:
    """Arguments for ``--engine ray``."""
    return ["--engine", "ray", "--output-dir", str(tmp_path / "out"), "--windows-per-file", "1", "--resume"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Flaky:
    """Controls which reads of files fail in the middle.

    Attributes:
        readings: Number of reads so far.
        breaks: Returns whether a read fails before a row; both are counted from 1.
    """

    def __init__(self) -> None:
        self.readings = 0
        self.breaks: Breaks = lambda reading, row: False


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Flaky:
    """Make reads fail as the returned object says."""
    found = Flaky()

    class Read(Corpus):
        def _parse(self, *arguments: Any) -> Iterator[Any]:
            found.readings += 1
            reading = found.readings
            for row, text in enumerate(super()._parse(*arguments), start=1):
                if found.breaks(reading, row):
                    raise OSError("connection reset")
                yield text

    monkeypatch.setattr(pipeline, "Corpus", Read)
    return found


@pytest.mark.parametrize("row", [5, 41, 71, 100])
def test_a_file_that_could_not_be_read_once_is_read_again(
    invoke: Invoke, engine: Engine, command: list[str], ray: list[str], output: Path, flaky: Flaky, row: int
) -> None:
    flaky.breaks = lambda reading, at: reading == 1 and at == row
    engine.loses = lambda number: number == 1  # causes a second pass
    result = invoke(*command, *ray)
    assert result.exit_code == 0, result.stderr
    assert flaky.readings == 2
    assert joined(output, header=True) == invoke(*command).stdout_bytes
    assert json.loads((output / "_SUCCESS").read_text())["rows"] == ROWS


@pytest.mark.parametrize("row", [5, 31, 75])
def test_a_resumed_run_that_reads_less_than_before_does_not_call_the_input_another(
    invoke: Invoke, engine: Engine, command: list[str], ray: list[str], output: Path, flaky: Flaky, row: int
) -> None:
    assert invoke(*command, *ray).exit_code == 0
    whole = joined(output, header=True)
    parts(output)[3].unlink()
    flaky.breaks = lambda reading, at: reading == 3 and at == row
    assert invoke(*command, *ray).exit_code == 0
    parts(output)[3].unlink()
    flaky.breaks, flaky.readings = lambda reading, at: at == row, 0
    result = invoke(*command, *ray)
    assert result.exit_code == 1
    assert "cannot be read as far as in an earlier pass" in result.stderr
    assert "connection reset" in result.stderr
    assert flaky.readings == 3
    assert not (output / "_SUCCESS").exists()
    flaky.breaks = lambda reading, at: False
    assert invoke(*command, *ray).exit_code == 0
    assert joined(output, header=True) == whole


def test_a_file_that_ends_where_it_was_damaged_is_whole(
    invoke: Invoke, engine: Engine, command: list[str], ray: list[str], output: Path, flaky: Flaky, tmp_path: Path
) -> None:
    # The damage is behind the last row, as in an archive without its last bytes, and forms its own shard.
    (tmp_path / "a.txt").write_text("the dog\n" * (2 * ROWS_A_PART + 1))
    flaky.breaks = lambda reading, row: reading == 1 and row == 2 * ROWS_A_PART + 1
    whole = tmp_path / "a.txt"

    def cut(number: int) -> bool:
        if number == 3:  # the first read is over
            whole.write_text("the dog\n" * 2 * ROWS_A_PART)
        return number == 1

    engine.loses = cut
    result = invoke(*command, *ray)
    assert result.exit_code == 0, result.stderr
    success = json.loads((output / "_SUCCESS").read_text())
    assert success["rows"] == 2 * ROWS_A_PART
    assert len(success["parts"]) == 2


def failing_writes(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """Make the writing of parts fail; a function decides for which, counted from 1."""
    add, count = Output.add_part, iter(range(1, 1000))

    def add_part(self: Output, *arguments: Any) -> int:
        if fails(next(count)):
            raise WriteError("it cannot be used", where="there", found="503 slow down") from OSError()
        return add(self, *arguments)

    monkeypatch.setattr(Output, "add_part", add_part)


def test_a_part_that_could_not_be_written_once_is_made_again(
    invoke: Invoke,
    engine: Engine,
    command: list[str],
    ray: list[str],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing_writes(monkeypatch, lambda number: number in (2, 3, 6))
    result = invoke(*command, *ray)
    assert result.exit_code == 0, result.stderr
    assert engine.done == 5 + 2 + 1
    assert joined(output, header=True) == invoke(*command).stdout_bytes


def test_a_directory_that_cannot_be_written_ends_the_run_soon_and_names_the_machine(
    invoke: Invoke, engine: Engine, command: list[str], ray: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_writes(monkeypatch, lambda number: True)
    few = invoke(*command, *ray)
    assert few.exit_code == 1
    assert engine.done == 3 * 5  # passes, parts
    many = invoke(*command[:-1], "1", *ray[:3], f"{ray[3]}-2", *ray[4:])
    assert many.exit_code == 1
    assert engine.done < 30 < ROWS
    for result in (few, many):
        assert "503 slow down" in result.stderr
        assert f"there, on {socket.gethostname()}" in result.stderr


def caused(error: WriteError) -> WriteError:
    """Return an error that the system caused."""
    error.__cause__ = ConnectionError("reset")
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError(28, "No space left on device"), True),
        (caused(WriteError("the output directory cannot be used", where="s3://there")), True),
        (WriteError("the output directory is not the one that the run began in"), False),
        (InputError("the input is another"), False),
        (RuntimeError("a mistake"), False),
    ],
)
def test_errors_of_disks_and_networks_are_tried_again(error: Exception, again: bool) -> None:
    found = json.loads(json.dumps(pipeline.error_to_dict(error)))
    assert found["retry"] == again
    assert socket.gethostname() in str(pipeline.error_from_dict(found))
    assert str(error).splitlines()[0] in str(pipeline.error_from_dict(found))


def test_why_workers_die_is_said(
    invoke: Invoke,
    engine: Engine,
    command: list[str],
    ray: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("ray.data._internal.execution")
    terminal, file = logging.StreamHandler(), logging.FileHandler(tmp_path / "log")
    logging.getLogger("ray.data").addHandler(terminal)
    logging.getLogger("ray.data").addHandler(file)

    def loses(number: int) -> bool:
        logger.warning("Cluster resources are not enough to run any task from Map.")
        try:
            raise RuntimeError("\x1b[36mray::Map()\x1b[39m (pid=1)\n\nModuleNotFoundError: No module named 'xlm'")
        except RuntimeError as error:
            logger.error("An exception was raised from a task of an operator.", exc_info=error)
        return True

    engine.loses = loses
    result = invoke(*command, *ray)
    for handler in (terminal, file):
        logging.getLogger("ray.data").removeHandler(handler)
        handler.close()
    assert result.exit_code == 1
    assert "Workers kept dying before" in result.stderr
    assert "found: ray::Map() (pid=1)\nModuleNotFoundError: No module named 'xlm'" in result.stderr
    shown = capfd.readouterr().err
    assert "not enough to run any task" in shown
    assert "ModuleNotFoundError" not in shown
    assert "ModuleNotFoundError" in (tmp_path / "log").read_text()


def test_an_error_of_rays_is_one_message(
    invoke: Invoke, engine: Engine, command: list[str], ray: list[str], output: Path
) -> None:
    def loses(number: int) -> bool:
        if number == 3:
            raise ClusterError("ray::Map()\nActorDiedError: the head is gone")
        return False

    engine.loses = loses
    result = invoke(*command, *ray)
    assert result.exit_code == 1
    assert "The Ray cluster failed" in result.stderr
    assert "the head is gone" in result.stderr
    assert "--resume" in result.stderr
    assert len(parts(output)) == 2
    engine.loses = lambda number: False
    assert invoke(*command, *ray).exit_code == 0


class _File:
    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        return self._size


@pytest.mark.parametrize(
    ("size", "read_at_once", "workers", "rows"),
    [
        (1000, 4096, 8, 4096),  # at least one window
        (10**8, 16, 8, 6096),  # sixteen parts per worker, 128 bytes per row
        (10**8, 4096, 8, 4096),
        (10**12, 16, 8, 65536),  # the maximum
        (10**12, 4096, 256, 65536),
        (10**12, 10**6, 256, 10**6),
    ],
)
def test_parts_have_as_many_rows_whatever_is_read_at_once(
    size: int, read_at_once: int, workers: int, rows: int
) -> None:
    task: Any = SimpleNamespace(read_at_once=read_at_once)
    files: Any = [_File(size)]
    run = Run(task=task, files=files, output="", cluster=None)  # type: ignore[arg-type]
    assert run._default_windows(workers) * read_at_once == rows
