"""Score many lines with a tiny model, show the memory, and kill and resume the run on the way.

    python scripts/measure_score_memory.py [--lines 1000000] [--kills 3] [--seed 0]

The first run is uninterrupted and prints its peak of resident memory as it goes. The second run is killed with SIGKILL
at random points and resumed. Exits with 1 unless the peak is flat after the first tenth (within 5%), every kill hit a
run, and both outputs are the same byte for byte.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import make_demo_checkpoint

_POINTS = 20
_GROWTH = 1.05


def write_lines(path: Path, count: int, *, seed: int) -> None:
    """Write lines of one to twenty known and unknown words."""
    words = [*" ".join(make_demo_checkpoint.SENTENCES).split(), "xylophone", "ü"]
    choose = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(" ".join(choose.choices(words, k=choose.randint(1, 20))) + "\n")


def command(directory: Path, output: Path) -> list[str]:
    """Start the run that is measured."""
    model = [str(directory / "demo.pth"), "--codes", str(directory / "codes"), "--lang", "en"]
    files = [str(directory / "lines.txt"), "--output", str(output)]
    return [sys.executable, "-m", "xlm", "score", *model, *files, "--resume"]


def rows_done(output: Path) -> int:
    """Return the number of rows that the run has on disk: 0 before the first, -1 when it is complete."""
    if output.exists():
        return -1
    try:
        return int(json.loads(Path(f"{output}.part.json").read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError):
        return 0


def peak_mb(process: int) -> float:
    """Return the peak of a process's resident memory, in megabytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    return 0.0


def measure(directory: Path, output: Path, lines: int) -> list[tuple[int, float]]:
    """Run to the end and return rows and megabytes at about twenty points."""
    curve: list[tuple[int, float]] = []
    start = time.monotonic()
    with subprocess.Popen(command(directory, output)) as process:
        while process.poll() is None:
            rows = rows_done(output)
            if rows > (curve[-1][0] if curve else 0) + lines / _POINTS or (rows > 0 and not curve):
                curve.append((rows, peak_mb(process.pid)))
                print(f"{time.monotonic() - start:8.1f} s {rows:10,} rows {curve[-1][1]:8.1f} MB", flush=True)
            time.sleep(0.02)
        if process.returncode != 0:
            raise SystemExit(f"the run ended with {process.returncode}")
    print(f"{time.monotonic() - start:8.1f} s in all")
    return curve


def kill_and_resume(directory: Path, output: Path, lines: int, *, kills: int, seed: int) -> None:
    """Kill the run at random points, and let the last one end."""
    choose = random.Random(seed)
    for point in sorted([choose.uniform(0.02, 0.95) for _ in range(kills)]):
        with subprocess.Popen(command(directory, output), stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and 0 <= rows_done(output) < point * lines:
                time.sleep(0.02)
            time.sleep(choose.uniform(0, 0.3))  # not always right after a window
            process.send_signal(signal.SIGKILL)
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run ended with {process.returncode} before it was killed: take more --lines")
        print(f"killed at {rows_done(output):,} rows", flush=True)
    subprocess.run(command(directory, output), check=True)


def main() -> int:
    """Run both and compare their outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_demo_checkpoint.write_files(directory, positions=make_demo_checkpoint.N_POSITIONS)
        write_lines(directory / "lines.txt", arguments.lines, seed=arguments.seed)
        curve = measure(directory, directory / "whole.tsv", arguments.lines)
        kill_and_resume(
            directory, directory / "resumed.tsv", arguments.lines, kills=arguments.kills, seed=arguments.seed
        )
        same = (directory / "whole.tsv").read_bytes() == (directory / "resumed.tsv").read_bytes()
    later = [memory for rows, memory in curve if rows >= arguments.lines / 10]
    flat = max(later) <= _GROWTH * min(later)
    print(f"after the first tenth: {min(later):.1f} to {max(later):.1f} MB, {'flat' if flat else 'NOT FLAT'}")
    print(f"resumed output: {'the same bytes' if same else 'DIFFERS'}")
    return 0 if flat and same else 1


if __name__ == "__main__":
    raise SystemExit(main())
