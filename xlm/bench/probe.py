"""One measurement in a fresh process: ``python -m xlm.bench.probe WORK …``, which prints one line of JSON.

A process of its own each time, so that no measurement finds memory, caches or imports of another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm.errors import XLMError


def measure(*arguments: str) -> dict[str, float]:
    """Runs this module in a new process and returns what it measured.

    Returns:
        ``seconds`` of the work, and by how many megabytes ``peak_mb`` it raised the process's resident memory above
        what the interpreter took with all imports done; more for some kinds of work.

    Raises:
        XLMError: The process failed; with the end of what it said.
    """
    command = [sys.executable, "-W", "ignore", "-m", "xlm.bench.probe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise XLMError("a measurement failed", where=" ".join(arguments), found=done.stderr[-2000:].strip())
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _resident_peak_mb() -> float:
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _time(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before, start = _resident_peak_mb(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "peak_mb": _resident_peak_mb() - before}


def _convert(source: str, target: str) -> dict[str, float]:
    import torch  # noqa: F401 (the bar is memory above the interpreter with torch imported)

    from xlm.checkpoint.convert import convert

    return _time(lambda: convert(source, target))[1]


def _load(directory: str, library: str) -> dict[str, float]:
    import torch

    if library == "transformers":
        import transformers

        transformers.logging.disable_progress_bar()
        load: Callable[[], Any] = lambda: transformers.XLMWithLMHeadModel.from_pretrained(directory)  # noqa: E731
        transformers.XLMWithLMHeadModel  # noqa: B018 (imported on first use, which is not part of loading)
    else:
        from xlm.checkpoint.load import load_model

        load = lambda: load_model(directory)  # noqa: E731
    start = time.perf_counter()
    model, figures = _time(load)
    ids_1T = torch.arange(14, 30)[None]
    with torch.inference_mode():
        model(ids_1T, langs=torch.zeros_like(ids_1T))
    return {**figures, "with_forward_seconds": time.perf_counter() - start}


if __name__ == "__main__":
    work = {"convert": _convert, "load": _load}[sys.argv[1]]
    print(json.dumps(work(*sys.argv[2:])))  # noqa: T201 (this is what the parent process reads)
