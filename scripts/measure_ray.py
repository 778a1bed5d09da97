"""Compare ``xlm score --engine ray`` on a local cluster with ``xlm score``: output, speed and memory.

    python scripts/measure_ray.py equal    [--lines 50000] [--model xlm-clm-ende-small --text en.txt.gz]
    python scripts/measure_ray.py overhead [--lines 50000] --text en.txt.gz
    python scripts/measure_ray.py memory   [--lines 1000000]

equal: three node processes with one CPU each must write the same digits as one process with one thread.

overhead: two workers with one thread each against one process with two threads, including the start-up, which is the
time for one line, and without it. The target is for the time without start-up. It needs two idle cores.

memory: the memory of every process while a tiny model scores short lines. No process may take more in the second half
than 5% above its maximum in the first half, and no worker may be replaced. Processes that ran for less than half of
the time are shown, not judged.

Exits with 1 if this does not hold. Without --text and --model, the lines are random words and the model is a tiny one.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import make_demo_checkpoint
from measure_score_memory import write_lines

from benchmarks.report import machine_facts
from tests.distributed.local_cluster import LocalCluster, Process
from tests.distributed.runs import command, finish, locally, on, parts, started, table

_BAR = 0.85
_GROWTH = 1.05
_POINTS = 20
_WORKERS = 2


def say_machine() -> None:
    """Print the machine and the versions."""
    for fact in machine_facts(("torch", "ray", "pyarrow")).values():
        print(fact)
    print(f"load {os.getloadavg()[0]:.2f}")


def make_input(directory: Path, arguments: argparse.Namespace) -> list[str | Path]:
    """Write the lines, and a tiny model if none is given; return the command that scores them."""
    model: list[str | Path] = [arguments.model]
    if arguments.model is None:
        make_demo_checkpoint.write_files(directory, positions=make_demo_checkpoint.N_POSITIONS)
        model = [directory / "demo.pth", "--codes", directory / "codes"]
    lines = directory / "lines.txt"
    if arguments.text is None:
        write_lines(lines, arguments.lines, seed=0)
    else:
        opener = gzip.open if arguments.text.suffix == ".gz" else open
        with opener(arguments.text, "rb") as source:
            lines.write_bytes(b"".join(itertools.islice(source, arguments.lines)))
    size = lines.stat().st_size
    print(f"{arguments.lines:,} lines, {size:,} bytes; {arguments.model or 'a tiny model'}", flush=True)
    return ["score", *model, "--lang", arguments.lang, "--format", "parquet", lines]


def equal(arguments: argparse.Namespace, directory: Path) -> bool:
    """Return whether a cluster of several nodes writes what one process writes."""
    score = make_input(directory, arguments)
    begin = time.monotonic()
    done = locally(*score, "--output", directory / "local")
    assert done.returncode == 0, done.stderr
    print(f"one process, one thread: {time.monotonic() - begin:.1f} s", flush=True)
    with LocalCluster(nodes=3, cpus=1) as cluster:
        begin = time.monotonic()
        finish(cluster, on(cluster, *score, output=directory / "parts"))
        print(f"three nodes, three workers: {time.monotonic() - begin:.1f} s, {len(parts(directory / 'parts'))} parts")
    expected = table(directory / "local")
    same = bool(table(*parts(directory / "parts")).equals(expected))
    print(f"{expected.num_rows:,} rows: {'all equal, in all digits' if same else 'DIFFERENT'}")
    return same and expected.num_rows == arguments.lines


def _seconds(line: list[str], *, threads: int) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.monotonic()
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout.decode())
    return time.monotonic() - begin


def overhead(arguments: argparse.Namespace, directory: Path) -> bool:
    """Return whether two workers with one thread are as fast as one process with two."""
    score = make_input(directory, arguments)
    one = directory / "one.txt"
    with Path(score[-1]).open("rb") as lines:
        one.write_bytes(lines.readline())
    ray = ("--engine", "ray", "--address", "local", "--concurrency", "2", "--output-dir")
    speeds = {}
    for name, threads, output in (("one process, 2 threads", 2, ("--output",)), ("ray, 2 workers of 1 thread", 1, ray)):
        start = _seconds(command(*score[:-1], one, *output, directory / f"one-{threads}"), threads=threads)
        seconds = _seconds(command(*score, *output, directory / f"all-{threads}"), threads=threads)
        speeds[threads] = (arguments.lines / seconds, (arguments.lines - 1) / (seconds - start))
        print(
            f"{name}: {seconds:.1f} s, of which start-up {start:.1f} s; "
            f"{speeds[threads][0]:,.1f} rows/s, without start-up {speeds[threads][1]:,.1f} rows/s",
            flush=True,
        )
    same = _same_rows(directory / "all-2", *parts(directory / "all-1"))
    ratios = [ray / alone for ray, alone in zip(speeds[1], speeds[2], strict=True)]
    print(f"ray / one process: {ratios[0]:.3f} with start-up; {ratios[1]:.3f} without, for which {_BAR} is the bar")
    return same and ratios[1] >= _BAR


def _same_rows(local: Path, *parts: Path) -> bool:
    """Return whether rows are equal; log-probabilities may differ by what the number of threads changes in a sum."""
    expected, actual = table(local), table(*parts)
    same = bool(expected.drop(["logprob"]).equals(actual.drop(["logprob"])))
    logprobs = [each.column("logprob").to_pylist() for each in (expected, actual)]
    same = same and [a is None for a in logprobs[0]] == [b is None for b in logprobs[1]]
    off = max((abs(a - b) for a, b in zip(*logprobs, strict=False) if None not in (a, b)), default=0.0)
    print(f"rows equal: {same}; log-probabilities differ by {off:.1e} nats at most, of 1 thread from 2")
    return same and off < 1e-3


def memory(arguments: argparse.Namespace, directory: Path) -> bool:
    """Return whether no process grows."""
    score = make_input(directory, arguments)
    names: dict[int, str] = {}  # the titles of workers name their current task and change
    curves: dict[int, list[int]] = defaultdict(list)
    workers: set[int] = set()
    with LocalCluster(nodes=2, cpus=1) as cluster:
        line = on(cluster, *score, "--windows-per-file", "1", output=directory / "parts", workers=_WORKERS)
        total = -(-arguments.lines // 4096)
        begin = time.monotonic()
        with started(cluster, line) as run:
            following = 0
            while run.poll() is None:
                done = len(parts(directory / "parts"))
                if done > following:
                    following = done + total // (10 * _POINTS)
                    now = {process: process.memory() for process in cluster.processes()}
                    workers |= {process.pid for process in now if process.at_work}
                    for process, size in now.items():
                        curves[process.pid].append(size)
                        names[process.pid] = process.name
                    if max(map(len, curves.values())) % 10 == 1:
                        _say_point(time.monotonic() - begin, done * 4096, now)
                time.sleep(0.05)
            if run.returncode != 0:
                raise SystemExit(run.communicate()[0])
        rows = json.loads((directory / "parts" / "_SUCCESS").read_text(encoding="utf-8"))["rows"]
        print(f"{rows:,} rows in {time.monotonic() - begin:.0f} s")
    flat = is_flat(curves, names)
    print(f"workers that were replaced: {len(workers) - _WORKERS}")
    return flat and len(workers) == _WORKERS and rows == arguments.lines


def is_flat(curves: Mapping[int, Sequence[int]], names: Mapping[int, str]) -> bool:
    """Print the memory of each process and return whether none grows.

    Args:
        curves: Bytes that each process took over time, by process id.
        names: Names of the processes, by process id.
    """
    points = max(map(len, curves.values()))
    flat = True
    for pid, sizes in sorted(curves.items()):
        if len(sizes) < points // 2:
            print(f"{pid:8} {names[pid]:48} there {len(sizes)} of {points} times, {max(sizes) / 1e6:6.1f} MB at most")
            continue
        first, second = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
        grows = max(second) > _GROWTH * max(first)
        flat = flat and not grows
        print(
            f"{pid:8} {names[pid]:48} first half {max(first) / 1e6:6.1f} MB at most, second {max(second) / 1e6:6.1f}"
            f"{', GROWS' if grows else ''}"
        )
    return flat


def _say_point(seconds: float, rows: int, sizes: dict[Process, int]) -> None:
    by_name: dict[str, int] = defaultdict(int)
    for process, size in sizes.items():
        by_name[process.name.partition(".")[0][:30]] += size
    shown = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sorted(by_name.items()))
    print(f"{seconds:7.1f} s {rows:10,} rows  {sum(sizes.values()) / 1e6:7.0f} MB: {shown}", flush=True)


def main() -> int:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equal", "overhead", "memory"])
    parser.add_argument("--lines", type=int)
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path, help="lines of it; .gz is decompressed")
    parser.add_argument("--lang", default="en")
    arguments = parser.parse_args()
    arguments.lines = arguments.lines or (1_000_000 if arguments.what == "memory" else 50_000)
    if arguments.what == "overhead" and arguments.model is None:
        arguments.model = "xlm-clm-ende-small"
    say_machine()
    with tempfile.TemporaryDirectory() as name:
        holds = {"equal": equal, "overhead": overhead, "memory": memory}[arguments.what](arguments, Path(name))
    print("holds" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
