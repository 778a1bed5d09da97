"""``xlm score --resume``.

Oracle: the bytes of a run that nothing stopped. The runs that are stopped are processes of their own, killed with
SIGKILL, which leaves them no time for anything.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from tests.cli.conftest import Invoke
from xlm.corpus.files import LocalFile

ROWS = 3000
WORDS = ("the", "small", "dog", "is", "sleeping", "on", "grass.", "Xylophon", "ü", "A", "cat,", "\t")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of all lengths, some empty, some not UTF-8."""
    path = tmp_path_factory.mktemp("texts") / "in.txt"
    choose = random.Random(5)
    lines = [" ".join(choose.choices(WORDS, k=choose.randrange(40))).encode() for _ in range(ROWS)]
    lines[17] = lines[2000] = b"\xff"
    path.write_bytes(b"\n".join(lines))
    return path


def arguments(demo_files: Path, texts: Path | str, output: Path, *options: str) -> list[str]:
    model = [str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"]
    return ["score", *model, str(texts), "--output", str(output), "--read-ahead", "50", *options]


def run_until(command: list[str], part: Path, size: int) -> bool:
    """Runs a command, kills it when a file has at least some size, and returns whether it was killed before its end."""
    with subprocess.Popen([sys.executable, "-m", "xlm", *command], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if part.exists() and part.stat().st_size >= size:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("options", [("--by", "token"), ("--format", "jsonl", "--bits"), ("--format", "parquet")])
def test_killed_at_random_and_resumed_is_byte_for_byte_the_same(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    if "parquet" in options:
        pytest.importorskip("pyarrow")
    whole, output, part = tmp_path / "whole", tmp_path / "out", tmp_path / "out.part"
    assert invoke(*arguments(demo_files, texts, whole, *options)).exit_code == 0
    # What a killed Parquet run leaves is not Parquet yet: as much text as the same run writes as JSON lines.
    if "parquet" in options:
        invoke(*arguments(demo_files, texts, tmp_path / "lines", "--format", "jsonl"))
    size = (tmp_path / "lines" if "parquet" in options else whole).stat().st_size
    choose = random.Random(options[-1])
    points = sorted([choose.uniform(0, 0.9) for _ in range(3)])
    command = arguments(demo_files, texts, output, *options, "--resume")
    killed = [run_until(command, part, int(point * size)) for point in points]
    assert killed == [True, True, True]
    assert 0 < json.loads((tmp_path / "out.part.json").read_text(encoding="utf-8"))["rows"] < ROWS
    assert not output.exists()
    result = invoke(*command)
    assert result.exit_code == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not part.exists()
    assert (tmp_path / "out.meta.json").read_bytes() == (tmp_path / "whole.meta.json").read_bytes()


@pytest.fixture
def unfinished(demo_files: Path, texts: Path, tmp_path: Path) -> Path:
    """The output of a run that was killed in the middle."""
    output = tmp_path / "out"
    assert run_until(arguments(demo_files, texts, output), tmp_path / "out.part", 20_000)
    return output


def test_only_the_same_run_is_gone_on_with(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path, unfinished: Path
) -> None:
    part = (tmp_path / "out.part").read_bytes()
    without = invoke(*arguments(demo_files, texts, unfinished))
    assert without.exit_code == 1
    assert "--resume" in without.stderr
    for option in (("--bits",), ("--batch-tokens", "99"), ("--dtype", "bfloat16"), ("--lang", "de"), ("--stride", "3")):
        other = invoke(*arguments(demo_files, texts, unfinished, "--resume", *option))
        assert other.exit_code == 1, option
        assert "differs from this run" in other.stderr
    longer = tmp_path / "longer.txt"
    longer.write_bytes(texts.read_bytes() + b"\nthe dog")
    assert "inputs" in invoke(*arguments(demo_files, longer, unfinished, "--resume")).stderr
    assert (tmp_path / "out.part").read_bytes() == part


def test_another_text_of_the_same_size_is_noticed(
    invoke: Invoke, demo_files: Path, texts: Path, unfinished: Path
) -> None:
    data = texts.read_bytes()
    try:
        texts.write_bytes(b"T" + data[1:])
        result = invoke(*arguments(demo_files, texts, unfinished, "--resume"))
        assert result.exit_code == 1
        assert "input differs from that of the run to resume" in result.stderr
    finally:
        texts.write_bytes(data)


def test_a_run_over_standard_input_is_resumed_too(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    data = texts.read_bytes()
    assert invoke(*arguments(demo_files, "-", whole), input=data).exit_code == 0
    command = [sys.executable, "-m", "xlm", *arguments(demo_files, "-", output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()
        state = tmp_path / "out.part.json"
        while not state.exists() or json.loads(state.read_text(encoding="utf-8"))["rows"] < 500:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    result = invoke(*arguments(demo_files, "-", output, "--resume"), input=data)
    assert result.exit_code == 0
    assert output.read_bytes() == whole.read_bytes()
    shorter = tmp_path / "again"
    assert invoke(*arguments(demo_files, "-", shorter, "--resume"), input=data).exit_code == 0


def test_an_input_that_lost_rows_is_noticed(invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    invoke(*arguments(demo_files, "-", output), input=texts.read_bytes())
    # As if it had been killed before its end: the state of a run that has all rows and not its name yet.
    state = json.loads((tmp_path / "out.meta.json").read_text(encoding="utf-8"))
    of_run = ("rows", "problems", "counts", "digest", "threads", "bytes")
    identity = {name: value for name, value in state.items() if name not in of_run}
    (tmp_path / "out").rename(tmp_path / "out.part")
    progress = {**{name: state[name] for name in of_run}, "digest": "x"}
    (tmp_path / "out.part.json").write_text(
        json.dumps({"identity": identity, "final_bytes": None, **progress}), encoding="utf-8"
    )
    result = invoke(*arguments(demo_files, "-", output, "--resume"), input="the dog\n")
    assert result.exit_code == 1
    assert "found: 1 rows" in result.stderr


def test_a_finished_output_of_another_input_is_refused(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path
) -> None:
    output, again = tmp_path / "out", ("--resume",)
    few = b"\n".join(texts.read_bytes().split(b"\n")[:200])
    assert invoke(*arguments(demo_files, "-", output), input=few).exit_code == 0
    scored = output.read_bytes()
    same = invoke(*arguments(demo_files, "-", output, *again), input=few)
    assert same.exit_code == 0
    assert "already complete" in same.stderr
    for other in (b"T" + few[1:], few + b"\nthe dog", few[:2000], b""):
        result = invoke(*arguments(demo_files, "-", output, *again), input=other)
        assert result.exit_code == 1
        assert "input differs from that of the run to resume" in result.stderr
    # A file that was changed and has the size that it had.
    path = tmp_path / "in.txt"
    path.write_bytes(few)
    assert invoke(*arguments(demo_files, path, tmp_path / "file")).exit_code == 0
    path.write_bytes(b"T" + few[1:])
    result = invoke(*arguments(demo_files, path, tmp_path / "file", *again))
    assert result.exit_code == 1
    assert "other texts" in result.stderr
    assert output.read_bytes() == scored


def test_an_input_that_is_refused_is_closed(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "in.txt", tmp_path / "out"
    path.write_bytes(texts.read_bytes())
    assert invoke(*arguments(demo_files, path, output)).exit_code == 0
    path.write_bytes(texts.read_bytes().replace(b"t", b"d", 1))
    opened: list[BinaryIO] = []

    def noted(file: LocalFile) -> BinaryIO:
        opened.append(file.path.open("rb"))
        return opened[-1]

    monkeypatch.setattr(LocalFile, "open", noted)
    result = invoke(*arguments(demo_files, path, output, "--resume"))
    assert result.exit_code == 1
    assert "other texts" in result.stderr
    assert [file.closed for file in opened] == [True, True]  # its beginning was checked, then all of it


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_full_disk_is_one_message(demo_files: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # Windows of some rows, smaller than any buffer.
    command = [sys.executable, "-m", "xlm", *arguments(demo_files, texts, output, "--read-ahead", "5")]
    limited = ["bash", "-c", 'ulimit -f 16 && exec "$@"', "bash", *command]  # blocks of 1,024 bytes
    process = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "could not be written" in process.stderr
    assert f"where: {output}.part" in process.stderr
    assert "Traceback" not in process.stderr
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    whole = tmp_path / "whole"
    command[command.index(str(output))] = str(whole)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert output.read_bytes() == whole.read_bytes()


def test_problems_and_damage_are_said_again(invoke: Invoke, demo_files: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "in.txt.gz", tmp_path / "out"
    lines = [line for i in range(4000) for line in (b"\xff", b"%d" % (i * i))]
    path.write_bytes(gzip.compress(b"\n".join(lines))[:-12])
    first = invoke(*arguments(demo_files, path, output))
    again = invoke(*arguments(demo_files, path, output, "--resume"))
    problems = output.read_bytes().count(b"\terror: ")
    assert problems > 50
    for result in (first, again):
        assert result.exit_code == 1
        assert f"{problems:,} rows could not be scored" in result.stderr
        assert "only the readable part" in result.stderr
        assert result.stderr.count(str(path)) == 1
    assert "already complete" in again.stderr


def test_problems_before_a_kill_are_counted(invoke: Invoke, demo_files: Path, texts: Path, unfinished: Path) -> None:
    state = Path(f"{unfinished}.part.json")
    assert json.loads(state.read_text(encoding="utf-8"))["problems"] >= 1  # row 18 is not UTF-8
    result = invoke(*arguments(demo_files, texts, unfinished, "--resume"))
    assert result.exit_code == 0
    assert "2 rows could not be scored" in result.stderr


def test_another_processor_does_not_go_on(
    invoke: Invoke, demo_files: Path, texts: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
    result = invoke(*arguments(demo_files, texts, unfinished, "--resume"))
    assert result.exit_code == 1
    assert "processor: ABACUS" in result.stderr


def test_a_second_run_beside_the_first_is_refused(
    invoke: Invoke, demo_files: Path, texts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    command = [sys.executable, "-m", "xlm", *arguments(demo_files, "-", tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        while not (tmp_path / "out.part.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        for options in ((), ("--resume",)):
            result = invoke(*arguments(demo_files, "-", tmp_path / "out", *options), input="the dog\n")
            assert result.exit_code == 1
            assert "Another run is writing this file" in result.stderr
        process.stdin.write(b"the dog\n")
        process.stdin.close()
        assert process.wait() == 0
    assert b"the dog" in (tmp_path / "out").read_bytes()
