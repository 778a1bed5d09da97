"""One measurement in a process of its own: ``python -m benchmarks.worker KIND …`` prints one line of JSON.

A fresh process shares no memory, caches or imports with another measurement.
"""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine import process_mb
from xlm.errors import XLMError

if TYPE_CHECKING:
    import torch


def measure(*arguments: str) -> dict[str, float]:
    """Run this module in a new process and return its results.

    Returns:
        ``seconds`` of the work, and ``peak_mb``, the megabytes by which the work raised the peak of the process's
        resident memory after all imports; some kinds of work add more.

    Raises:
        XLMError: The process failed; the error holds the end of its output.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise XLMError("a measurement failed", where=" ".join(arguments), found=done.stderr[-2000:].strip())
    results: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return results


def _resident_peak_mb() -> float:
    if not math.isnan(peak := process_mb("VmHWM")):
        return peak
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _reset_peak() -> bool:
    """Reset the peak of resident memory; return False where the system cannot, so that the peak includes the past."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or a sandbox forbids it
        return False
    return True


def _measure(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before, start = _resident_peak_mb(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "peak_mb": _resident_peak_mb() - before}


def _measure_on_gpu(work: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float]]:
    """Do the same on a GPU, where memory is what torch allocated on it beyond what it held before."""
    import torch

    from benchmarks.hardware import timed

    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.max_memory_allocated(device)
    seconds, result = timed(work, device)
    return result, {"seconds": seconds, "peak_mb": (torch.cuda.max_memory_allocated(device) - before) / 1e6}


def _convert(source: str, target: str) -> dict[str, float]:
    import torch  # noqa: F401 (the target is memory beyond the interpreter with torch imported)

    from xlm.checkpoint.convert import convert

    return _measure(lambda: convert(source, target))[1]


def _load(directory: str, library: str) -> dict[str, float]:
    import torch

    if library == "transformers":
        import transformers

        transformers.logging.disable_progress_bar()
        load: Callable[[], Any] = lambda: transformers.XLMWithLMHeadModel.from_pretrained(directory)  # noqa: E731
        transformers.XLMWithLMHeadModel  # noqa: B018 (imported on first use, which is not part of loading)
    else:
        from xlm.model.lm import XLMWithLMHeadModel

        load = lambda: XLMWithLMHeadModel.from_pretrained(directory)  # noqa: E731
    # Importing torch leaves much garbage. Collecting it takes 70 ms, which would fall to either library by chance.
    gc.collect()
    start = time.perf_counter()
    model, results = _measure(load)
    ids_1T = torch.arange(14, 30)[None]
    with torch.inference_mode():
        model(ids_1T, langs=torch.zeros_like(ids_1T))
    results["with_forward_seconds"] = time.perf_counter() - start
    del model
    start = time.process_time()
    model = load()
    results["again_cpu_seconds"] = time.process_time() - start
    for weight in model.parameters():
        weight.data.sum()
    return {**results, "again_and_read_cpu_seconds": time.process_time() - start}


def _tokenize(directory: str, library: str, texts: str, ids_file: str) -> dict[str, float]:
    lines = Path(texts).read_text(encoding="utf-8").split("\n")[:-1]
    work = _encoding(directory, library)
    # Warm up what the first few thousand texts import, compile and tabulate. Caches hold hardly any other word.
    work([f"x{number}, 'y'." for number in range(5000)])
    start = time.process_time()
    cold, results = _measure(lambda: work(lines))
    results["cpu_seconds"] = time.process_time() - start
    results["warm_seconds"] = _measure(lambda: work(lines))[1]["seconds"]
    Path(ids_file).write_text("".join(" ".join(map(str, ids)) + "\n" for ids in cold), encoding="utf-8")
    return results


def _tokenize_first(directory: str, library: str, texts: str, number: str) -> dict[str, float]:
    """Measure the first texts of a process, with all that is compiled and tabulated for them."""
    import numpy  # noqa: F401 (imports of other libraries are not measured)

    lines = Path(texts).read_text(encoding="utf-8").split("\n")[: int(number)]
    work = _encoding(directory, library)
    start = time.process_time()
    work(lines)
    return {"first_cpu_seconds": time.process_time() - start}


def _encoding(directory: str, library: str) -> Callable[[list[str]], Any]:
    if library == "transformers":
        import transformers

        encode = transformers.XLMTokenizer.from_pretrained(directory).encode
        return lambda texts: [encode(text) for text in texts]
    from xlm.tokenizer.tokenizer import XLMTokenizer

    ours = XLMTokenizer.from_pretrained(directory, preset="transformers")
    return (lambda texts: [ours.encode(text) for text in texts]) if library == "xlm-encode" else ours.encode_batch


def _score(
    directory: str, library: str, dtype: str, texts: str, logprobs_file: str, device_name: str, weights: str
) -> dict[str, float]:
    import torch
    from safetensors.torch import save_file

    from xlm._io.memory import find_malloc_trim, limit_onednn_cache

    lines, device = Path(texts).read_text(encoding="utf-8").split("\n")[:-1], torch.device(device_name)
    if library == "transformers":
        work = _peer_scoring(directory, dtype, device)
    else:
        from xlm.model.lm import XLMWithLMHeadModel
        from xlm.scoring.score import score
        from xlm.tokenizer.tokenizer import XLMTokenizer

        packed = weights == "packed" and dtype != "float32"
        model = XLMWithLMHeadModel.from_pretrained(directory, dtype="float32" if packed else dtype, device=device)
        if packed:
            model = model.for_inference(dtype)
        tokenizer = XLMTokenizer.from_pretrained(directory)
        work = lambda lines: [list(result.logprobs) for result in score(model, tokenizer, lines, lang="en")]  # noqa: E731
    limit_onednn_cache()  # as the commands do
    warnings.simplefilter("ignore")
    # Warm up: read the weights and load libraries. On a GPU, what is loaded also depends on the sizes of the batches.
    work(lines if device.type == "cuda" else lines[:1])
    if device.type == "cuda":
        logprobs, results = _measure_on_gpu(lambda: work(lines), device)
    else:
        # Scoring could use memory that packing left free without raising the peak.
        if trim := find_malloc_trim():
            trim(0)
        reset = _reset_peak()
        logprobs, results = _measure(lambda: work(lines))
        if not reset:
            del results["peak_mb"]
    save_file({"logprobs": torch.tensor([x for row in logprobs for x in row])}, logprobs_file)
    return results


def _train(way: str, size: str, precision: str, rows: str, steps: str) -> dict[str, float]:
    from benchmarks.training import take_steps
    from xlm._io.memory import keep_freed_memory

    if way == "xlm":
        keep_freed_memory()  # as the command does
    results, usage = _measure(lambda: take_steps(way, size, precision, int(rows), int(steps)))
    return {**usage, **results}


def _peer_scoring(directory: str, dtype: str, device: torch.device) -> Callable[[list[str]], list[list[float]]]:
    """Return a function that scores padded batches of 16 lines in their order, with all logits of a batch at once."""
    import torch
    import transformers

    from xlm.parity.peer import load_peer

    model, _ = load_peer(Path(directory), dtype=dtype, device=device)
    tokenizer = transformers.XLMTokenizer.from_pretrained(directory)
    language, pad = model.config.lang2id["en"], model.config.pad_index

    @torch.inference_mode()
    def work(lines: list[str]) -> list[list[float]]:
        result: list[list[float]] = []
        for start in range(0, len(lines), 16):
            # Its tokenizer ignores the language; ours uses the preset that does the same.
            rows = [tokenizer.encode(line) for line in lines[start : start + 16]]
            longest = max(map(len, rows))
            ids_BT = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
            lengths_B = torch.tensor([len(row) for row in rows], device=device)
            logits_BTV = model(input_ids=ids_BT, langs=torch.full_like(ids_BT, language), lengths=lengths_B).logits
            # log_softmax would hold the logits twice, which is not the peer's fault.
            chosen_BT = logits_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])[..., 0]
            # In float32, one row at a time, which takes hardly any memory.
            normaliser_BT = torch.stack([logits_TV[:-1].float().logsumexp(-1) for logits_TV in logits_BTV])
            logprobs_BT = chosen_BT.float() - normaliser_BT
            result += [logprobs[: len(row) - 1] for logprobs, row in zip(logprobs_BT.tolist(), rows, strict=True)]
        return result

    return work


if __name__ == "__main__":
    kinds: dict[str, Callable[..., dict[str, float]]] = {
        "convert": _convert,
        "load": _load,
        "score": _score,
        "tokenize": _tokenize,
        "tokenize-first": _tokenize_first,
        "train": _train,
    }
    work = kinds[sys.argv[1]]
    try:
        results = work(*sys.argv[2:])
    except XLMError as error:
        sys.exit(str(error))
    print(json.dumps(results))  # noqa: T201 (read by the parent process)
