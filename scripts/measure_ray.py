"""``xlm score --engine ray`` on a cluster of this machine beside ``xlm score``: output, speed and memory.

    python scripts/measure_ray.py equal    [--lines 50000] [--model xlm-clm-ende-small --text en.txt.gz]
    python scripts/measure_ray.py overhead [--lines 50000] --text en.txt.gz
    python scripts/measure_ray.py memory   [--lines 1000000]

equal     compares all digits of three node processes, each with one CPU, with those of one process with one thread.
overhead  compares the speed of two workers with one thread each with that of one process with two threads. It prints
          the speed with and without start-up, which is the time for a single line; the bar applies to the speed without
          it. The measurement needs two idle cores.
memory    follows the memory of every process while a tiny model scores short lines. Memory is flat if the maximum of
          each process in the second half is at most 5% above that in the first half, and no worker was replaced.
          Processes that exist for less than half of the time are printed but not judged.

The exit status is 1 if the condition does not hold. Without --text and --model, the script makes a tiny model and lines
of random words.
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


def print_machine() -> None:
    """Print the machine and the versions of the libraries."""
    for fact in machine_facts(("torch", "ray", "pyarrow")).values():
        print(fact)
    print(f"load {os.getloadavg()[0]:.2f}")


def make_input(directory: Path, arguments: argparse.Namespace) -> list[str | Path]:
    """Write the lines, and a model unless there is one; return the command that scores the lines."""
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
    """Return whether a cluster of several nodes writes the same rows as one process."""
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
    """Return whether two workers with one thread each are as fast as one process with two threads."""
    score = make_input(directory, arguments)
    one = directory / "one.txt"
    with Path(score[-1]).open("rb") as lines:
        one.write_bytes(lines.readline())
    ray = ("--engine", "ray", "--address", "local", "--concurrency", "2", "--output-dir")
    speeds = {}
    for name, threads, output in (("one process, 2 threads", 2, ("--output",)), ("ray, 2 workers of 1 thread", 1, ray)):
        start = _seconds(command(*score[:-1], one, *output, directory / f"one-{threads}"), threads=threads)
        whole = _seconds(command(*score, *output, directory / f"all-{threads}"), threads=threads)
        speeds[threads] = (arguments.lines / whole, (arguments.lines - 1) / (whole - start))
        print(
            f"{name}: {whole:.1f} s, of which start-up {start:.1f} s; "
            f"{speeds[threads][0]:,.1f} rows/s, without start-up {speeds[threads][1]:,.1f} rows/s",
            flush=True,
        )
    same = _same_rows(directory / "all-2", *parts(directory / "all-1"))
    ratios = [ray / alone for ray, alone in zip(speeds[1], speeds[2], strict=True)]
    print(f"ray / one process: {ratios[0]:.3f} with start-up; {ratios[1]:.3f} without (bar: {_BAR})")
    return same and ratios[1] >= _BAR


def _same_rows(local: Path, *parts: Path) -> bool:
    """Return whether rows are equal, and their log-probabilities up to rounding that depends on the thread count."""
    expected, actual = table(local), table(*parts)
    same = bool(expected.drop(["logprob"]).equals(actual.drop(["logprob"])))
    logprobs = [each.column("logprob").to_pylist() for each in (expected, actual)]
    same = same and [a is None for a in logprobs[0]] == [b is None for b in logprobs[1]]
    off = max((abs(a - b) for a, b in zip(*logprobs, strict=False) if None not in (a, b)), default=0.0)
    print(f"rows equal: {same}; log-probabilities of 1 and 2 threads differ by at most {off:.1e} nats")
    return same and off < 1e-3


def memory(arguments: argparse.Namespace, directory: Path) -> bool:
    """Return whether the memory of all processes is flat."""
    score = make_input(directory, arguments)
    names: dict[int, str] = {}  # the name of a worker changes with its task
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
                        _print_point(time.monotonic() - begin, done * 4096, now)
                time.sleep(0.05)
            if run.returncode != 0:
                raise SystemExit(run.communicate()[0])
        rows = json.loads((directory / "parts" / "_SUCCESS").read_text(encoding="utf-8"))["rows"]
        print(f"{rows:,} rows in {time.monotonic() - begin:.0f} s")
    flat = is_flat(curves, names)
    print(f"replaced workers: {len(workers) - _WORKERS}")
    return flat and len(workers) == _WORKERS and rows == arguments.lines


def is_flat(curves: Mapping[int, Sequence[int]], names: Mapping[int, str]) -> bool:
    """Return whether the memory of all processes is flat, and print the maximum of each.

    Args:
        curves: Memory of each process in bytes, by process id, at each measurement.
        names: Names of the processes, by process id.
    """
    points = max(map(len, curves.values()))
    flat = True
    for pid, sizes in sorted(curves.items()):
        if len(sizes) < points // 2:
            print(f"{pid:8} {names[pid]:48} seen {len(sizes)} of {points} times, maximum {max(sizes) / 1e6:6.1f} MB")
            continue
        first, second = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
        grows = max(second) > _GROWTH * max(first)
        flat = flat and not grows
        print(
            f"{pid:8} {names[pid]:48} maximum of first half {max(first) / 1e6:6.1f} MB, "
            f"of second {max(second) / 1e6:6.1f} MB{', GROWS' if grows else ''}"
        )
    return flat


def _print_point(seconds: float, rows: int, sizes: dict[Process, int]) -> None:
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
    parser.add_argument("--text", type=Path, help="file of lines; .gz is decompressed")
    parser.add_argument("--lang", default="en")
    arguments = parser.parse_args()
    arguments.lines = arguments.lines or (1_000_000 if arguments.what == "memory" else 50_000)
    if arguments.what == "overhead" and arguments.model is None:
        arguments.model = "xlm-clm-ende-small"
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        holds = {"equal": equal, "overhead": overhead, "memory": memory}[arguments.what](arguments, Path(name))
    print("holds" if holds else "DOES NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
