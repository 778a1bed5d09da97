"""Speed of generation from one prompt or many, in each type, compared with a peer and with reading the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import in_turn
from benchmarks.hardware import CPU, DeviceSetup, memory_bandwidth, timed
from benchmarks.models import SIZES, load_pair, write_random_model
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.scoring import DIFFERENCE_LIMITS
from xlm.errors import XLMError
from xlm.model.head import target_logprobs
from xlm.model.lm import XLMWithLMHeadModel

_PROMPT_LENGTH = 16
_LANGUAGE = 1
_LIMIT = "reading memory"
_NEAR_TIES = {"float32": 1e-3, "bfloat16": 0.125, "int8": 1e-3}
"""Largest difference of two float32 logits whose order a type may swap.

The best random logits are between 4 and 8, where bfloat16 has steps of 1/32. Their inputs have errors of one percent,
which change the difference of two logits by as much (see ``rounding_limit``). In int8, swaps are only counted."""
BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    rows: int
    weights: str
    at_least: float
    """Minimum speed, as a multiple of the peer's."""
    cuda_graphs: bool = False

    @property
    def name(self) -> str:
        graphs = ", CUDA graphs" if self.cuda_graphs else ""
        return f"xlm {self.weights}, {self.rows} row{'s' if self.rows > 1 else ''}{graphs}"

    @property
    def kind(self) -> str:
        """Name of everything besides the prompts that affects the tokens."""
        return f"{self.weights} with CUDA graphs" if self.cuda_graphs else self.weights


ONE_ROW = (
    _Case(rows=1, weights="float32", at_least=3),
    _Case(rows=1, weights="bfloat16", at_least=6),
    _Case(rows=1, weights="int8", at_least=10),
)
MANY_ROWS = (_Case(rows=32, weights="bfloat16", at_least=30),)


def cases_for(setup: DeviceSetup, rows: int) -> tuple[_Case, ...]:
    """Return the cases for a device and a number of rows; on a GPU, both libraries run in bfloat16 only."""
    if not setup.packed:
        plain = _Case(rows=rows, weights=setup.dtype, at_least=10)
        return (plain, replace(plain, cuda_graphs=True)) if setup.device.type == "cuda" else (plain,)
    return ONE_ROW if rows == 1 else MANY_ROWS


def bench_generate(
    scratch: Path,
    *,
    size: str,
    rounds: int,
    against: str | None,
    rows: int,
    new_tokens: int,
    setup: DeviceSetup = CPU,
) -> Report:
    """Continue random prompts greedily, alternating with a peer and with reading memory.

    Args:
        scratch: A directory for temporary files.
        size: One of ``SIZES``.
        rounds: Number of rounds; each measures everything once.
        against: ``"transformers"`` or ``None``. Tokens are compared with the peer's choices; those in float32 even if
            that type is not timed.
        rows: 1 for one prompt of 16 tokens, or 32 for prompts of 8 to 23 tokens in one batch.
        new_tokens: Number of new tokens of each row.
        setup: Where to run. On a CPU, this library's model runs in several types, and a peer in float32. Elsewhere both
            run in bfloat16.
    """
    pair = load_pair(write_random_model(scratch, SIZES[size]), against, setup)
    cases = cases_for(setup, rows)
    models = {case: pair.ours.for_inference(case.weights) if setup.packed else pair.ours for case in cases}
    config, device, peer = pair.ours.config, setup.device, setup.label(against)
    lengths_B = torch.tensor([_PROMPT_LENGTH] if rows == 1 else [8 + row % 16 for row in range(rows)])
    ids_BT = torch.randint(
        14, config.vocab_size, (rows, int(lengths_B.max())), generator=torch.Generator().manual_seed(0)
    )
    ids_BT[torch.arange(ids_BT.shape[1]) >= lengths_B[:, None]] = config.pad_token_id
    ids_BT = ids_BT.to(device)
    works: dict[str, Callable[[], tuple[float, Any]]] = {_LIMIT: lambda: (memory_bandwidth(device), None)}
    for case, model in models.items():
        work = partial(_generate, model, ids_BT, lengths_B, new_tokens, cuda_graphs=case.cuda_graphs)
        works[case.name] = partial(_speed, work, rows * new_tokens, device)
    if peer:
        by_peer = partial(_generate_with_peer, pair.theirs, ids_BT, lengths_B, new_tokens)
        works[peer] = partial(_speed, by_peer, rows * new_tokens, device)
    figures, by_name = in_turn(works, rounds)
    bandwidths = figures.pop(_LIMIT)
    results = {case: by_name[case.name] for case in cases}
    measurements = {name: Measurement(name=name, unit="tokens/s", values=values) for name, values in figures.items()}
    reading = Measurement(name=_LIMIT, unit="GB/s", values=bandwidths)
    shares, targets = [], []
    weights = sum(p.numel() for name, p in pair.ours.named_parameters() if "position" not in name)
    for case in cases:
        if rows == 1 or not setup.packed:  # many rows on a CPU are limited by arithmetic, not by memory
            per_token = weights * BYTES_PER_WEIGHT[case.weights] / rows / 1e9
            share = Measurement(
                name=f"{case.name}, share of reading its weights",
                unit="of the limit",
                values=tuple(
                    speed * per_token / rate for speed, rate in zip(figures[case.name], bandwidths, strict=True)
                ),
            )
            shares.append(share)
        if peer and size == "published":
            targets.append(
                Target(
                    name=f"{case.name} / {peer}",
                    value=ratio_of_rounds(measurements[case.name], measurements[peer]),
                    limit=case.at_least,
                    at_least=True,
                )
            )
    if against:
        exact = pair if setup.packed else pair.in_float32()
        model = exact.ours.for_inference("float32") if setup.packed else exact.ours
        unrounded = _Case(rows=rows, weights="float32", at_least=0)
        if all(case.weights != unrounded.weights for case in results):
            results[unrounded] = _generate(model, ids_BT, lengths_B, new_tokens)
        for case, ids in results.items():
            differing = _count_differing(exact.theirs, ids, lengths_B, new_tokens, near_tie=_NEAR_TIES[case.weights])
            name = f"xlm {case.kind}: of {rows * new_tokens} tokens, those that {against} would not have chosen"
            if case.weights == "int8":
                shares.append(Measurement(name=name, unit="tokens", values=(differing,)))
                continue
            targets.append(Target(name=name, value=differing, limit=0.0))
        # A wrong cache may give the same tokens, but not the same log-probabilities.
        for cuda_graphs in sorted({False, *(case.cuda_graphs for case in cases)}):
            difference = _largest_difference(
                exact.theirs, model, ids_BT, lengths_B, new_tokens, cuda_graphs=cuda_graphs
            )
            kind = replace(unrounded, cuda_graphs=cuda_graphs).kind
            name = f"xlm {kind}: log-probabilities of the tokens, largest difference from {against} float32, nats"
            targets.append(Target(name=name, value=difference, limit=DIFFERENCE_LIMITS["float32"]))
    prompts = f"{rows} prompts" if rows > 1 else "1 prompt"
    return Report(
        title=f"greedy continuation, {prompts}, {new_tokens} new tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ())), device=device),
        measurements=(*measurements.values(), reading, *shares),
        targets=tuple(targets),
    )


def _speed(work: Callable[[], Any], tokens: int, device: torch.device) -> tuple[float, Any]:
    """Return the tokens a second of some work, and its result."""
    seconds, result = timed(work, device)
    return tokens / seconds, result


def _generate(
    model: XLMWithLMHeadModel, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, cuda_graphs: bool = False
) -> Tensor:
    return model.generate(ids_BT, lengths=lengths_B, cuda_graphs=cuda_graphs, **_greedy(new_tokens))


def _greedy(new_tokens: int) -> dict[str, Any]:
    return {"langs": _LANGUAGE, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}


@torch.inference_mode()
def _generate_with_peer(model: Any, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int) -> None:
    # transformers requires padding on the left.
    rows = [row[:length] for row, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)]
    pad, longest = model.config.pad_index, ids_BT.shape[1]
    padded = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=ids_BT.device)
    generated = model.generate(
        input_ids=padded,
        attention_mask=(padded != pad).long(),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
    )
    expected = (len(rows), longest + new_tokens)
    if generated.shape != expected:
        raise XLMError(
            "the peer did not generate the number of tokens that its speed counts",
            where="python -m benchmarks generate",
            found=f"a result of shape {tuple(generated.shape)}",
            expected=f"{expected}, prompts included",
        )


@torch.inference_mode()
def _count_differing(model: Any, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, near_tie: float) -> float:
    """Count the new tokens that are not the peer's best for the same text, except near ties."""
    differing = 0
    for row_T, length in zip(ids_BT, lengths_B.tolist(), strict=True):
        row_T = row_T[: length + new_tokens]
        logits_TV = _peer_logits(model, row_T)[length - 1 :]
        logits_TV[:, :14] = float("-inf")  # special tokens, which generate excludes; </s> because of min_new_tokens
        chosen_T = logits_TV.gather(1, row_T[length:, None])[:, 0]
        differing += int((logits_TV.amax(1) - chosen_T > near_tie).sum())
    return float(differing)


@torch.inference_mode()
def _largest_difference(
    theirs: Any, ours: XLMWithLMHeadModel, ids_BT: Tensor, lengths_B: Tensor, new_tokens: int, *, cuda_graphs: bool
) -> float:
    """Return the largest difference of a new token's log-probability from that of one forward pass of the peer."""
    difference = 0.0
    continuations = ours.continuations(ids_BT, lengths=lengths_B, cuda_graphs=cuda_graphs, **_greedy(new_tokens))
    for row_T, length, continuation in zip(ids_BT, lengths_B.tolist(), continuations, strict=True):
        new_T = torch.tensor(continuation.tokens, device=ids_BT.device)
        logits_TV = _peer_logits(theirs, torch.cat([row_T[:length], new_T]))[length - 1 :]
        ours_T = torch.tensor(continuation.logprobs, device=ids_BT.device)
        difference = max(difference, float((target_logprobs(logits_TV, new_T) - ours_T).abs().max()))
    return difference


def _peer_logits(model: Any, row_T: Tensor) -> Tensor:
    """Return the logits (T - 1, V) that predict each token but the first."""
    row_1T = row_T[None]
    logits_TV: Tensor = model(input_ids=row_1T, langs=torch.full_like(row_1T, _LANGUAGE)).logits[0, :-1]
    return logits_TV
