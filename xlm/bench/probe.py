"""One measurement in a fresh process: ``python -m xlm.bench.probe WORK …``, which prints one line of JSON.

A process of its own each time, so that no measurement finds memory, caches or imports of another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.errors import XLMError

if TYPE_CHECKING:
    import torch


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


def _forget_peak() -> bool:
    """Makes the peak begin anew; false where the system cannot, which then holds what came before, too."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # elsewhere than on Linux, and where a sandbox forbids it
        return False
    return True


def _time(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before, start = _resident_peak_mb(), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return result, {"seconds": seconds, "peak_mb": _resident_peak_mb() - before}


def _time_on_card(work: Callable[[], Any], device: torch.device) -> tuple[Any, dict[str, float]]:
    """As ``_time``; memory is what torch handed out on the card above what it had handed out before."""
    import torch

    from xlm.bench.limits import seconds

    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.max_memory_allocated(device)
    taken, result = seconds(work, device)
    return result, {"seconds": taken, "peak_mb": (torch.cuda.max_memory_allocated(device) - before) / 1e6}


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


def _tokenize(directory: str, library: str, texts: str, ids_file: str) -> dict[str, float]:
    lines = Path(texts).read_text(encoding="utf-8").split("\n")[:-1]
    if library == "transformers":
        import transformers

        encode = transformers.XLMTokenizer.from_pretrained(directory).encode
        work: Callable[[list[str]], Any] = lambda texts: [encode(text) for text in texts]  # noqa: E731
    else:
        from xlm.tokenizer.tokenizer import XLMTokenizer

        ours = XLMTokenizer.from_pretrained(directory, preset="transformers")
        in_a_loop = library == "xlm-encode"
        work = (lambda texts: [ours.encode(text) for text in texts]) if in_a_loop else ours.encode_batch
    # What is imported, compiled and tabulated on first use, which takes more than a few texts; but for this all caches
    # are empty.
    work(["x"] * 5000)
    start = time.process_time()
    cold, figures = _time(lambda: work(lines))
    figures["cpu_seconds"] = time.process_time() - start
    figures["warm_seconds"] = _time(lambda: work(lines))[1]["seconds"]
    Path(ids_file).write_text("".join(" ".join(map(str, ids)) + "\n" for ids in cold), encoding="utf-8")
    return figures


def _score(
    directory: str, library: str, dtype: str, texts: str, logprobs_file: str, place: str, form: str
) -> dict[str, float]:
    import torch
    from safetensors.torch import save_file

    from xlm.scoring.leftovers import trim_of_glibc

    lines, device = Path(texts).read_text(encoding="utf-8").split("\n")[:-1], torch.device(place)
    if library == "transformers":
        work = _their_scoring(directory, dtype, device)
    else:
        from xlm.checkpoint.load import load_model
        from xlm.scoring.score import score
        from xlm.tokenizer.tokenizer import XLMTokenizer

        packed = form == "packed" and dtype != "float32"
        model = load_model(directory, dtype="float32" if packed else dtype, device=device)
        if packed:
            model = model.for_inference(dtype)
        tokenizer = XLMTokenizer.from_pretrained(directory)
        work = lambda lines: [list(result.logprobs) for result in score(model, tokenizer, lines, lang="en")]  # noqa: E731
    warnings.simplefilter("ignore")
    # Reads the weights in, and loads what is loaded on first use; on a card that depends on the sizes of batches too.
    work(lines if device.type == "cuda" else lines[:1])
    if device.type == "cuda":
        logprobs, figures = _time_on_card(lambda: work(lines), device)
    else:
        # What packing left free is memory that scoring could use without a trace.
        if trim := trim_of_glibc():
            trim(0)
        forgotten = _forget_peak()
        logprobs, figures = _time(lambda: work(lines))
        if not forgotten:
            del figures["peak_mb"]
    save_file({"logprobs": torch.tensor([x for row in logprobs for x in row])}, logprobs_file)
    return figures


def _train(way: str, size: str, precision: str, rows: str, steps: str) -> dict[str, float]:
    from xlm.bench.training import take_steps

    figures, usage = _time(lambda: take_steps(way, size, precision, int(rows), int(steps)))
    return {**usage, **figures}


def _their_scoring(directory: str, dtype: str, device: torch.device) -> Callable[[list[str]], list[list[float]]]:
    """Padded batches of 16 in the order of the lines, and the logits of all their positions at a time."""
    import torch
    import transformers

    from xlm.bench.pair import load_peer

    model = load_peer(Path(directory), dtype=dtype, device=device)
    tokenizer = transformers.XLMTokenizer.from_pretrained(directory)
    language, pad = model.config.lang2id["en"], model.config.pad_index

    @torch.inference_mode()
    def work(lines: list[str]) -> list[list[float]]:
        result: list[list[float]] = []
        for start in range(0, len(lines), 16):
            # Its tokenizer does not know the language, and ours was told to do the same.
            rows = [tokenizer.encode(line) for line in lines[start : start + 16]]
            longest = max(map(len, rows))
            ids_BT = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
            lengths_B = torch.tensor([len(row) for row in rows], device=device)
            logits_BTV = model(input_ids=ids_BT, langs=torch.full_like(ids_BT, language), lengths=lengths_B).logits
            # Not log_softmax, which would hold the logits twice: that is no fault of the peer's.
            chosen_BT = logits_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])[..., 0]
            # In float32, which for one row at a time takes hardly any memory.
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
        "train": _train,
    }
    work = kinds[sys.argv[1]]
    try:
        figures = work(*sys.argv[2:])
    except XLMError as error:
        sys.exit(str(error))
    print(json.dumps(figures))  # noqa: T201 (this is what the parent process reads)
