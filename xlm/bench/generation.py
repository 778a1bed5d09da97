"""Continuing prompts: one row and many, in each type, beside a peer and beside reading the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.bench.limits import reading_bandwidth, seconds
from xlm.bench.pair import load_pair, write_random_directory
from xlm.bench.place import CPU, Place
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.bench.scoring import DIFFERENCE_LIMITS
from xlm.errors import XLMError
from xlm.model.head import target_logprobs
from xlm.model.lm import XLMWithLMHeadModel

_PROMPT = 16
_LANGUAGE = 1
_NEAR_TIES = {"float32": 1e-3, "bfloat16": 0.125, "int8": 1e-3}
"""Logits nearer to each other than this in float32 may change places in ours, by their type.

The best of random logits are between 4 and 8, where bfloat16 has steps of 1/32; what they are computed from is off by a
hundredth, which moves the difference of two of them by as much (see ``rounding_limit``). Ours in int8 are counted, not
judged."""
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    rows: int
    weights: str
    at_least: float
    """Times the peer's speed."""
    cuda_graphs: bool = False

    @property
    def name(self) -> str:
        graphs = ", CUDA graphs" if self.cuda_graphs else ""
        return f"xlm {self.weights}, {self.rows} row{'s' if self.rows > 1 else ''}{graphs}"

    @property
    def kind(self) -> str:
        """What the tokens depend on."""
        return f"{self.weights} with CUDA graphs" if self.cuda_graphs else self.weights


ONE_ROW = (
    _Case(rows=1, weights="float32", at_least=3),
    _Case(rows=1, weights="bfloat16", at_least=6),
    _Case(rows=1, weights="int8", at_least=10),
)
MANY_ROWS = (_Case(rows=32, weights="bfloat16", at_least=30),)


def cases_of(place: Place, rows: int) -> tuple[_Case, ...]:
    """What is measured at a place with so many rows; off the CPU in bfloat16, beside the peer in bfloat16."""
    if not place.packed:
        plain = _Case(rows=rows, weights=place.loaded_type, at_least=10)
        return (plain, replace(plain, cuda_graphs=True)) if place.device.type == "cuda" else (plain,)
    return ONE_ROW if rows == 1 else MANY_ROWS


def bench_generate(
    scratch: Path,
    *,
    size: str,
    rounds: int,
    against: str | None,
    rows: int,
    new_tokens: int,
    place: Place = CPU,
) -> BenchReport:
    """Continues random prompts greedily, in turn with a peer and with reading memory.

    Args:
        scratch: A directory for the files.
        size: One of ``SIZES``.
        rounds: How often to measure; all alternate.
        against: ``"transformers"`` or nobody. Our tokens are compared with its choices, float32's too where that is
            not among the types that are timed.
        rows: 1, for one prompt of 16 tokens, or 32, for prompts of 8 to 23 tokens in one batch.
        new_tokens: How many tokens each row gets.
        place: Where. On a CPU ours run in several types beside a peer in float32, elsewhere both in bfloat16.
    """
    pair = load_pair(write_random_directory(scratch, size), against, place)
    cases = cases_of(place, rows)
    models = {case: pair.ours.for_inference(case.weights) if place.packed else pair.ours for case in cases}
    config, device, peer = pair.ours.config, place.device, place.named(against)
    lengths_B = torch.tensor([_PROMPT] if rows == 1 else [8 + row % 16 for row in range(rows)])
    ids_BT = torch.randint(
        14, config.vocab_size, (rows, int(lengths_B.max())), generator=torch.Generator().manual_seed(0)
    )
    ids_BT[torch.arange(ids_BT.shape[1]) >= lengths_B[:, None]] = config.pad_token_id
    ids_BT = ids_BT.to(device)
    speeds: dict[str, list[float]] = {name: [] for name in (*(case.name for case in cases), *([peer] if peer else []))}
    bandwidths, results = [], {}
    for round_ in range(rounds + 1):  # the first does not count: it reads the weights in, and loads libraries
        bandwidth_now = reading_bandwidth(device)
        taken: dict[str, float] = {}
        for case, model in models.items():
            work = partial(_ours, model, ids_BT, lengths_B, new_tokens, cuda_graphs=case.cuda_graphs)
            taken[case.name], results[case] = seconds(work, device)
        if peer:
            taken[peer], _ = seconds(partial(_theirs, pair.theirs, ids_BT, lengths_B, new_tokens), device)
        if round_ > 0:
            bandwidths.append(bandwidth_now)
            for name, spent in taken.items():
                speeds[name].append(rows * new_tokens / spent)
    figures = {name: Figure(name=name, unit="tokens/s", values=tuple(values)) for name, values in speeds.items()}
    bandwidth = Figure(name="reading memory", unit="GB/s", values=tuple(bandwidths))
    shares, bars = [], []
    weights = sum(p.numel() for name, p in pair.ours.named_parameters() if "position" not in name)
    for case in cases:
        if rows == 1 or not place.packed:  # many rows on a CPU are bound by multiplying
            per_token = weights * _BYTES[case.weights] / rows / 1e9
            limit = Figure(
                name=f"{case.name}, share of reading its weights",
                unit="of the limit",
                values=tuple(
                    speed * per_token / rate for speed, rate in zip(speeds[case.name], bandwidths, strict=True)
                ),
            )
            shares.append(limit)
        if peer and size == "published":
            bars.append(
                Bar(
                    name=f"{case.name} / {peer}",
                    value=ratio_of_rounds(figures[case.name], figures[peer]),
                    limit=case.at_least,
                    at_least=True,
                )
            )
    if against:
        exact = pair if place.packed else pair.in_float32()
        model = exact.ours.for_inference("float32") if place.packed else exact.ours
        unrounded = _Case(rows=rows, weights="float32", at_least=0)
        if all(case.weights != unrounded.weights for case in results):
            results[unrounded] = _ours(model, ids_BT, lengths_B, new_tokens)
        for case, ids in results.items():
            differing = _differing(exact.theirs, ids, lengths_B, new_tokens, near_tie=_NEAR_TIES[case.weights])
            name = f"xlm {case.kind}: of {rows * new_tokens} tokens, those that {against} would not have chosen"
            if case.weights == "int8":
                shares.append(Figure(name=name, unit="tokens", values=(differing,)))
                continue
            bars.append(Bar(name=name, value=differing, limit=0.0))
        # Tokens would be the same with a cache that held another text; log-probabilities would not.
        for cuda_graphs in sorted({False, *(case.cuda_graphs for case in cases)}):
            gap = _largest_gap(exact.theirs, model, ids_BT, lengths_B, new_tokens, cuda_graphs=cuda_graphs)
            kind = replace(unrounded, cuda_graphs=cuda_graphs).kind
            name = f"xlm {kind}: log-probabilities of the tokens, largest difference from {against} float32, nats"
            bars.append(Bar(name=name, value=gap, limit=DIFFERENCE_LIMITS["float32"]))
    prompts = f"{rows} prompts" if rows > 1 else "1 prompt"
    return BenchReport(
        title=f"greedy continuation, {prompts}, {new_tokens} new tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ())), device=device),
        figures=(*figures.values(), bandwidth, *shares),
        bars=tuple(bars),
    )


def _ours(
    model: XLMWithLMHeadModel, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, cuda_graphs: bool = False
) -> Tensor:
    return model.generate(ids_BT, lengths=lengths_B, cuda_graphs=cuda_graphs, **_greedily(new_tokens))


def _greedily(new_tokens: int) -> dict[str, Any]:
    return {"langs": _LANGUAGE, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}


@torch.inference_mode()
def _theirs(model: Any, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int) -> None:
    # Its way of taking prompts of several lengths is padding on the left.
    rows = [row[:length] for row, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)]
    pad, longest = model.config.pad_index, ids_BT.shape[1]
    padded = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=ids_BT.device)
    produced = model.generate(
        input_ids=padded,
        attention_mask=(padded != pad).long(),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
    )
    expected = (len(rows), longest + new_tokens)
    if produced.shape != expected:
        raise XLMError(
            "the peer did not produce the tokens that its time is divided by",
            where="xlm bench generate",
            found=f"a result of shape {tuple(produced.shape)}",
            expected=f"{expected}, prompts included",
        )


@torch.inference_mode()
def _differing(model: Any, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, near_tie: float) -> float:
    """How many of the new tokens are not the best of the peer's forward over the same text, near ties aside."""
    differing = 0
    for row_T, length in zip(ids_BT, lengths_B.tolist(), strict=True):
        row_T = row_T[: length + new_tokens]
        logits_TV = _logits_of_peer(model, row_T)[length - 1 :]
        logits_TV[:, :14] = float("-inf")  # special tokens, which ours never continues with, and an early end
        chosen_T = logits_TV.gather(1, row_T[length:, None])[:, 0]
        differing += int((logits_TV.amax(1) - chosen_T > near_tie).sum())
    return float(differing)


@torch.inference_mode()
def _largest_gap(
    theirs: Any, ours: XLMWithLMHeadModel, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, cuda_graphs: bool
) -> float:
    """Between our log-probability of a new token, step by step, and that of the peer's forward over the whole text."""
    gap = 0.0
    found = ours.continuations(ids_BT, lengths=lengths_B, cuda_graphs=cuda_graphs, **_greedily(new_tokens))
    for row_T, length, continuation in zip(ids_BT, lengths_B.tolist(), found, strict=True):
        new_T = torch.tensor(continuation.tokens, device=ids_BT.device)
        logits_TV = _logits_of_peer(theirs, torch.cat([row_T[:length], new_T]))[length - 1 :]
        ours_T = torch.tensor(continuation.logprobs, device=ids_BT.device)
        gap = max(gap, float((target_logprobs(logits_TV, new_T) - ours_T).abs().max()))
    return gap


def _logits_of_peer(model: Any, row_T: Tensor) -> Tensor:
    """(T - 1, V), of all tokens but the first, each given those before it."""
    row_1T = row_T[None]
    logits_TV: Tensor = model(input_ids=row_1T, langs=torch.full_like(row_1T, _LANGUAGE)).logits[0, :-1]
    return logits_TV
