"""Language models beside CTranslate2 with the same weights: forward passes, scoring and generation.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.ctranslate2_models import write_language_model
from benchmarks.engine import Engine, in_turn
from benchmarks.forward import forward_operations, product_weights
from benchmarks.generation import BYTES_PER_WEIGHT
from benchmarks.hardware import matrix_peak, memory_bandwidth
from benchmarks.models import SIZES, scale_embeddings
from benchmarks.report import Measurement, Report, Target, machine_facts, quotients, ratio_of_rounds
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

Work = Literal["forward", "score", "generate"]

_FORMS: dict[Work, tuple[str, ...]] = {
    "forward": ("float32", "packed float32", "int8"),
    "score": ("float32", "packed float32", "int8"),
    "generate": ("packed float32", "int8"),
}
"""Forms of the weights. As in the commands, many rows in float32 use the weights of the file as they are; a program may
pack them by ``for_inference``, which takes memory. CTranslate2 has one form of each type."""

_TARGETS: dict[tuple[Work, int], dict[str, float]] = {
    ("score", 1): {"float32": 1.1, "packed float32": 1.1, "int8": 1.5},
    ("generate", 1): {"packed float32": 1.3, "int8": 2.0},
    ("generate", 8): {"packed float32": 1.5, "int8": 1.5},
    ("generate", 32): {"packed float32": 1.4, "int8": 1.4},
}
"""Smallest speed as a multiple of CTranslate2's, by the work and the rows of a batch, at the published size."""

_LANGUAGE = 1
_FIRST_WORD = 14
_B, _T = 8, 128
_LONGEST = 70
_BATCH_TOKENS = 1024
_LOGIT_TOLERANCE = 1e-3
"""Largest difference of float32 logits, relative to the largest. CTranslate2 approximates functions such as GELU."""
_LOGPROB_TOLERANCE = 1e-2


def bench_beside_ctranslate2(
    scratch: Path,
    *,
    work: Work,
    size: str,
    rounds: int,
    rows: int = 1,
    new_tokens: int = 64,
    lines: int = 64,
) -> Report:
    """Time a random model in turn with CTranslate2, each in its own process, and compare what they compute in float32.

    Speeds stand beside the limit of the machine in the same round: for one prompt, reading the weights; for forward
    passes and scoring in float32, multiplying matrices.

    Args:
        scratch: A directory for temporary files.
        work: ``"forward"``: all logits of 8 x 128 tokens; ``"score"``: log-probabilities of random sentences of 5 to 70
            tokens; ``"generate"``: greedy continuations.
        size: One of ``SIZES``.
        rounds: Number of rounds; each measures everything once.
        rows: Prompts in a batch.
        new_tokens: New tokens of each prompt.
        lines: Number of sentences to score.
    """
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(SIZES[size]).eval()
    scale_embeddings(model)
    directories = {"xlm": scratch / "xlm", "ctranslate2": scratch / "ctranslate2"}
    model.save_pretrained(directories["xlm"])
    write_language_model(model, _LANGUAGE, directories["ctranslate2"])
    config = model.config
    del model
    sentences = sentences_of(work, config, rows=rows, lines=lines)
    counted = {"score": sum(map(len, sentences)) - len(sentences), "generate": rows * new_tokens}
    tokens = counted.get(work, sum(map(len, sentences)))
    threads = torch.get_num_threads()
    measurements: list[Measurement] = []
    targets: list[Target] = []
    for each in _FORMS[work]:
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(Engine(library, opener, str(directories[name]), work, each, threads))
                for name, library, opener in (
                    ("xlm", "xlm.model.lm", open_xlm),
                    ("ctranslate2", "ctranslate2", open_ctranslate2),
                )
            }
            works = {name: partial(engine.run, sentences, new_tokens) for name, engine in engines.items()}
            limit = _limit(work, each, rows, config, tokens)
            if limit is not None:
                works["limit"] = partial(_measure_limit, limit[0])
            figures, results = in_turn(works, rounds)
            memory = {name: engine.memory() for name, engine in engines.items()}
        speeds = {
            name: Measurement(
                name=f"{name} {each}", unit="tokens/s", values=tuple(tokens / seconds for seconds in figures[name])
            )
            for name in engines
        }
        measurements += speeds.values()
        if limit is not None:
            what, unit, per_token = limit
            reached = Measurement(name=f"{what}, {each}", unit=unit, values=figures["limit"])
            measurements.append(reached)
            for name, speed in speeds.items():
                values = tuple(share * per_token for share in quotients(speed, reached))
                measurements.append(Measurement(name=f"{name} {each}, share of it", unit="", values=values))
        measurements += [
            Measurement(name=f"{name} {each}, memory", unit="MB", values=(megabytes,))
            for name, megabytes in memory.items()
        ]
        if size == "published":
            ratio = ratio_of_rounds(speeds["xlm"], speeds["ctranslate2"])
            at_least = _TARGETS.get((work, rows), {}).get(each, 1.0)
            targets.append(Target(name=f"xlm {each} / ctranslate2, speed", value=ratio, limit=at_least, at_least=True))
        name, difference, tolerance = _difference(work, results["xlm"], results["ctranslate2"])
        if each != "int8" and tolerance is not None:
            targets.append(Target(name=name, value=difference, limit=tolerance))
        else:
            measurements.append(Measurement(name=f"{each}: {name}", unit="", values=(difference,)))
    return Report(
        title=f"{work} beside CTranslate2, {size} size, {rounds} rounds"
        + (f", {rows} rows, {new_tokens} new tokens" if work == "generate" else ""),
        machine={**machine_facts(("torch", "ctranslate2")), "threads": str(threads)},
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def sentences_of(work: Work, config: XLMConfig, *, rows: int, lines: int) -> list[list[int]]:
    """Return the random ids that each library takes."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, _FIRST_WORD, config.vocab_size, generator=generator)
    if work == "forward":
        return draw((_B, _T)).tolist()
    if work == "score":
        lengths = torch.randint(5, _LONGEST + 1, (lines,), generator=generator).tolist()
        end = config.eos_token_id
        return [[end, *draw((length,)).tolist(), end] for length in lengths]
    lengths = [16] if rows == 1 else [8 + row % 16 for row in range(rows)]
    return [draw((length,)).tolist() for length in lengths]


def _limit(work: Work, form: str, rows: int, config: XLMConfig, tokens: int) -> tuple[str, str, float] | None:
    """Return the name and unit of a limit of the machine, and how much of it one token takes; ``None`` if unknown."""
    if work == "generate" and rows == 1:
        return "reading memory", "GB/s", product_weights(config) * BYTES_PER_WEIGHT[weight_type(form)] / 1e9
    if work != "generate" and form != "int8":
        row_tokens = _T if work == "forward" else _LONGEST // 2
        return "matrix product", "GFLOP/s", forward_operations(config, 1, row_tokens) / row_tokens / 1e9
    return None


def weight_type(form: str) -> str:
    """Return the type of the weights of a form."""
    return form.removeprefix("packed ")


def _measure_limit(name: str) -> tuple[float, None]:
    return (memory_bandwidth() if name == "reading memory" else matrix_peak(torch.float32)), None


def open_xlm(directory: str, work: Work, form: str, threads: int) -> Any:
    """Open a model with this library and return the work, which takes sentences and the number of new tokens."""
    from xlm.scoring.logprobs import score_sequences

    torch.set_num_threads(threads)
    model = XLMWithLMHeadModel.from_pretrained(directory)
    if form != "float32":
        model = model.for_inference(weight_type(form))

    @torch.inference_mode()
    def run(sentences: list[list[int]], new_tokens: int) -> Any:
        if work == "forward":
            return model(torch.tensor(sentences), langs=_LANGUAGE).logits.numpy()
        if work == "score":
            return [scores.logprobs for scores in score_sequences(model, sentences, _LANGUAGE)]
        lengths, pad = [*map(len, sentences)], model.config.pad_token_id
        ids_BT = model.generate(
            torch.tensor([[*sentence, *[pad] * (max(lengths) - len(sentence))] for sentence in sentences]),
            lengths=torch.tensor(lengths),
            langs=_LANGUAGE,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )
        return [row[length : length + new_tokens] for row, length in zip(ids_BT.tolist(), lengths, strict=True)]

    return run


def open_ctranslate2(directory: str, work: Work, form: str, threads: int) -> Any:
    """Do the same with CTranslate2."""
    import ctranslate2
    import numpy

    model = ctranslate2.Generator(directory, compute_type=weight_type(form), inter_threads=1, intra_threads=threads)

    def run(sentences: list[list[int]], new_tokens: int) -> Any:
        if work == "forward":
            return numpy.array(model.forward_batch(sentences))
        words = [[str(id_) for id_ in sentence] for sentence in sentences]
        if work == "score":
            results = model.score_batch(words, max_batch_size=_BATCH_TOKENS, batch_type="tokens")
            return [result.log_probs for result in results]
        results = model.generate_batch(
            words,
            max_length=new_tokens,
            min_length=new_tokens,
            include_prompt_in_result=False,
            sampling_topk=1,
            suppress_sequences=[[str(special)] for special in range(_FIRST_WORD)],
        )
        return [[int(token) for token in result.sequences[0]] for result in results]

    return run


def _difference(work: Work, ours: Any, theirs: Any) -> tuple[str, float, float | None]:
    """Return what differs, by how much, and how much it may in float32."""
    if work == "forward":
        error = float(abs(ours - theirs).max() / abs(ours).max())
        return "largest difference of logits, relative to the largest", error, _LOGIT_TOLERANCE
    if work == "score":
        pairs = zip(ours, theirs, strict=True)
        differences = [abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True)]
        return "largest difference of log-probabilities, nats", max(differences), _LOGPROB_TOLERANCE
    differing = float(sum(row != other for row, other in zip(ours, theirs, strict=True)))
    # A near tie that either library decides otherwise changes all later tokens of its row.
    return f"continuations that differ, of {len(ours)}", differing, None
