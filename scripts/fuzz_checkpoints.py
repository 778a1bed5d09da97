#!/usr/bin/env python3
"""Open checkpoints with harmless changes, random damage and attacks, for as long as you like.

    PYTHONPATH=. .venv/bin/python scripts/fuzz_checkpoints.py [--minutes 10] [--files N] [--seed N] [--first N]

Each file or directory must either open with the weights of the original or be refused with an ``XLMError``, within 10
seconds of processor time and 1 GB of memory above its size. Harmless changes must open, and attacks must be refused. A
damaged file with a checksum must not open with different weights.

The script prints the counts of each generator, and every violation with the number that reproduces it (``--first``).
The exit status is 1 if there are violations.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from tests.checkpoint.mutants import ANY, EQUAL, GENERATORS, OPENS, REFUSED, Base, Generator, Mutant
from xlm import XLMError, XLMTokenizer, XLMWithLMHeadModel
from xlm.errors import XLMWarning

SECONDS, BYTES = 10, 1 << 30
ALLOWED = {OPENS: {"opened"}, REFUSED: {"refused"}, EQUAL: {"opened", "refused"}, ANY: {"opened", "refused", "differs"}}


def open_one(path: Path, expected: dict[str, Tensor]) -> tuple[str, str]:
    """Return the result of opening a checkpoint, and the error message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", XLMWarning)
            if path.is_file():
                XLMTokenizer.from_pretrained(path, codes=path.with_name("codes"))
            state = XLMWithLMHeadModel.from_pretrained(path).state_dict()
    except XLMError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "allocate" in str(cause):
                return "memory", repr(cause)
            cause = cause.__cause__ or cause.__context__
        return "refused", str(error)
    except BaseException:
        return "other", traceback.format_exc(limit=-6)
    same = state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    return ("opened" if same else "differs"), ""


def choose(number: int, rng: random.Random) -> Generator:
    """Return the generator of a mutant: first each generator once, then at random by weight."""
    if number < len(GENERATORS):
        return GENERATORS[number]
    return rng.choices(GENERATORS, [generator.weight for generator in GENERATORS])[0]


def make(base: Base, seed: int, number: int) -> tuple[Generator, Mutant]:
    """Return a mutant, which the seed and the number determine."""
    rng = random.Random(f"{seed} {number}")
    generator = choose(number, rng)
    return generator, generator.make(base, rng)


def work(seed: int, first: int, end: float, last: int) -> None:
    """Open mutants one by one, and print each result as a line of JSON; a mutant may end the process."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = Base.make(Path(folder))
        expected = XLMWithLMHeadModel.from_pretrained(Path(folder) / "base.pth").state_dict()
        for number in range(first, last):
            if time.time() > end:
                break
            generator, mutant = make(base, seed, number)
            path, size = mutant.write(Path(folder) / "mutant"), mutant.size
            print(json.dumps({"number": number, "generator": generator.name}), flush=True)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + BYTES + size
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
            signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)  # for a process that only waits
            begin = time.process_time()
            result, message = open_one(path, expected)
            seconds = time.process_time() - begin
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(json.dumps({"result": result, "message": message[:2000], "seconds": seconds}), flush=True)
            mutant.remove(path)


def run(seed: int, first: int, files: int, minutes: float) -> tuple[dict[str, Counter[str]], list[str], float]:
    """Return the results of each generator, the violations, and the longest time that a mutant took."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    expected = {generator.name: generator.expected for generator in GENERATORS}
    number, last, slowest = first, first + files, 0.0
    end = time.time() + 60 * minutes
    while number < last and time.time() < end:
        command = [sys.executable, __file__, "--work", *map(str, (seed, number, end, last))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                start, outcome = json.loads(line), process.stdout.readline()
                number, name = start["number"] + 1, start["generator"]
                result: dict[str, Any] = {"result": "killed", "message": "", "seconds": 0.0}
                if outcome:
                    result = json.loads(outcome)
                slowest = max(slowest, result["seconds"])
                counts[name][result["result"]] += 1
                if result["result"] not in ALLOWED[expected[name]]:
                    wrong.append(f"{name}, --seed {seed} --first {number - 1}: {result['result']}\n{result['message']}")
                    print(wrong[-1], flush=True)
        if process.returncode == 0:
            break
        if process.returncode > 0:
            sys.exit(f"the worker ended with {process.returncode}")
    return counts, wrong, slowest


def main() -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--files", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=None, help="default: the current time")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        seed, first, end, last = arguments.work
        work(int(seed), int(first), float(end), int(last))
        return 0
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    counts, wrong, slowest = run(seed, arguments.first, arguments.files, arguments.minutes)
    columns = ("opened", "refused", "differs", "other", "memory", "killed")
    print(f"\n{'generator':<40}{'expected':>10}" + "".join(f"{column:>9}" for column in columns))
    total: Counter[str] = Counter()
    for generator in GENERATORS:
        row = counts[generator.name]
        total += row
        print(f"{generator.name:<40}{generator.expected:>10}" + "".join(f"{row[column]:>9}" for column in columns))
    print(f"{'all':<50}" + "".join(f"{total[column]:>9}" for column in columns))
    harmless = sum(counts[generator.name].total() for generator in GENERATORS if generator.expected == OPENS)
    print(f"{total.total()} mutants, {harmless} harmless; {len(wrong)} violations; the slowest took {slowest:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
