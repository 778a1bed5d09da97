"""Kill a command before each of its changes to files: ``-m tests.killed DIRECTORY EVERY ARGUMENT …``.

The command ``xlm ARGUMENT …`` has ``OUTPUT`` in place of its output. It first runs to its end with the output
``DIRECTORY/whole``. Then, for the numbers EVERY, 2 * EVERY, …, up to the number of its changes, a process runs it with
the output ``DIRECTORY/NUMBER`` and is killed, as by ``kill -9``, before that change; another process then runs it to
its end. Prints the exit status of the first and of each last run, as a JSON list.

Processes are forked from this one, which computes nothing itself, because importing torch takes longer than such a run.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from xlm.cli import xlm as command

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork a process")


def run_killed(directory: Path, every: int, *arguments: str | Path) -> list[Path]:
    """Run this file as a program, check that every last run ended as the first, and return their outputs."""
    directory.mkdir()
    command = [sys.executable, "-m", "tests.killed", directory, str(every), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    numbers = range(every, len(json.loads(done.stdout)) * every, every)
    assert json.loads(done.stdout) == [0] * (1 + len(numbers)), done.stderr.decode()
    return [directory / "whole", *(directory / str(number) for number in numbers)]


def run(arguments: list[str], output: Path, *, killed_at: int = 0) -> tuple[int, int]:
    """Run a command in a process of its own.

    Args:
        arguments: The arguments, with ``OUTPUT`` in place of the output.
        output: The output.
        killed_at: Number of the change, from 1, before which the process is killed; 0 for none.

    Returns:
        The exit status, or the negative number of a signal, and the number of changes begun.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        changes = 0

        def watch(event: str, values: tuple[Any, ...]) -> None:
            nonlocal changes
            is_change = event in _CHANGES or (event == "open" and values[2] & _WRITING)
            if is_change and str(output) in os.fsdecode(values[0] if isinstance(values[0], str | bytes) else b""):
                changes += 1
                os.write(tell, b".")
                if changes == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 70  # of an error that the command does not handle
        try:
            sys.addaudithook(watch)
            command.main([each.replace("OUTPUT", str(output)) for each in arguments])
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        changes = len(pipe.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), changes


def main(directory: Path, every: int, arguments: list[str]) -> None:
    """Run the program; the arguments are those of the command line."""
    for name in ("cli.train", "cli.translate", "inference.packed_model", "training.loop", "translation.table"):
        importlib.import_module(f"xlm.{name}")
    status, changes = run(arguments, directory / "whole")
    statuses = [status]
    for number in range(every, changes + 1, every):
        output = directory / str(number)
        killed, _ = run(arguments, output, killed_at=number)
        assert killed == -signal.SIGKILL, (number, killed)
        statuses.append(run(arguments, output)[0])
    sys.stdout.write(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
