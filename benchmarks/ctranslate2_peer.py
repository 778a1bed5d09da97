"""Language models beside CTranslate2 with the same weights: forward passes, scoring and generation.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.hardware import timed
from benchmarks.models import SIZES, scale_embeddings
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.translation import copy_half, copy_head
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.logprobs import score_sequences

Work = Literal["forward", "score", "generate"]

WEIGHTS = ("float32", "int8")

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
    weights: tuple[str, ...] = WEIGHTS,
) -> Report:
    """Time a random model in turn with CTranslate2, and compare what they compute in float32.

    Args:
        scratch: A directory for temporary files.
        work: ``"forward"``: all logits of 8 x 128 tokens; ``"score"``: log-probabilities of random sentences of 5 to 70
            tokens; ``"generate"``: greedy continuations.
        size: One of ``SIZES``.
        rounds: Number of rounds; each measures everything once.
        rows: Prompts in a batch.
        new_tokens: New tokens of each prompt.
        lines: Number of sentences to score.
        weights: Types of the weights.
    """
    import ctranslate2

    torch.manual_seed(0)
    model = XLMWithLMHeadModel(SIZES[size]).eval()
    scale_embeddings(model)
    write_language_model(model, scratch / "ctranslate2")
    measurements: list[Measurement] = []
    targets: list[Target] = []
    for each in weights:
        # As the commands do: few rows at a time are packed, and many in float32 are not.
        ours = model if each == "float32" and work != "generate" else model.for_inference(each)
        theirs = ctranslate2.Generator(
            str(scratch / "ctranslate2"), compute_type=each, inter_threads=1, intra_threads=torch.get_num_threads()
        )
        works, tokens = _works(work, ours, theirs, rows=rows, new_tokens=new_tokens, lines=lines)
        speeds: dict[str, list[float]] = {name: [] for name in works}
        results: dict[str, Any] = {}
        for round_ in range(rounds + 1):  # the first round is a warm-up
            for name, run in works.items():
                seconds, results[name] = timed(run)
                if round_ > 0:
                    speeds[name].append(tokens / seconds)
        by_name = {
            name: Measurement(name=f"{name} {each}", unit="tokens/s", values=tuple(values))
            for name, values in speeds.items()
        }
        measurements += by_name.values()
        if size == "published":
            ratio = ratio_of_rounds(by_name["xlm"], by_name["ctranslate2"])
            targets.append(Target(name=f"xlm {each} / ctranslate2, speed", value=ratio, limit=1.0, at_least=True))
        name, difference, limit = _difference(work, results["xlm"], results["ctranslate2"])
        if each == "float32" and limit is not None:
            targets.append(Target(name=name, value=difference, limit=limit))
        else:
            measurements.append(Measurement(name=f"{each}: {name}", unit="", values=(difference,)))
    return Report(
        title=f"{work} beside CTranslate2, {size} size, {rounds} rounds"
        + (f", {rows} rows, {new_tokens} new tokens" if work == "generate" else ""),
        machine={**machine_facts(("torch", "ctranslate2")), "threads": str(torch.get_num_threads())},
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def _works(
    work: Work, ours: XLMWithLMHeadModel, theirs: Any, *, rows: int, new_tokens: int, lines: int
) -> tuple[dict[str, Callable[[], Any]], int]:
    """Return the work of each library, and the number of tokens that it counts."""
    config = ours.config
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, _FIRST_WORD, config.vocab_size, generator=generator)
    if work == "forward":
        ids_BT = draw((_B, _T))
        return {
            "xlm": partial(_forward, ours, ids_BT),
            "ctranslate2": lambda: theirs.forward_batch(ids_BT.tolist()),
        }, ids_BT.numel()
    if work == "score":
        lengths = torch.randint(5, _LONGEST + 1, (lines,), generator=generator).tolist()
        end = config.eos_token_id
        sentences = [[end, *draw((length,)).tolist(), end] for length in lengths]
        texts = [_names(sentence) for sentence in sentences]
        return {
            "xlm": partial(_score, ours, sentences),
            "ctranslate2": lambda: [
                result.log_probs
                for result in theirs.score_batch(texts, max_batch_size=_BATCH_TOKENS, batch_type="tokens")
            ],
        }, sum(map(len, sentences)) - len(sentences)
    lengths_B = torch.tensor([16] if rows == 1 else [8 + row % 16 for row in range(rows)])
    ids_BT = draw((rows, int(lengths_B.max())))
    ids_BT[torch.arange(ids_BT.shape[1]) >= lengths_B[:, None]] = config.pad_token_id
    prompts = [_names(row[:length]) for row, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True)]
    return {
        "xlm": lambda: [
            list(each.tokens)
            for each in ours.continuations(
                ids_BT, lengths=lengths_B, langs=_LANGUAGE, max_new_tokens=new_tokens, min_new_tokens=new_tokens
            )
        ],
        "ctranslate2": lambda: [
            list(map(int, result.sequences[0]))
            for result in theirs.generate_batch(
                prompts,
                max_length=new_tokens,
                min_length=new_tokens,
                include_prompt_in_result=False,
                sampling_topk=1,
                suppress_sequences=[[str(special)] for special in range(_FIRST_WORD)],
            )
        ],
    }, rows * new_tokens


@torch.inference_mode()
def _forward(model: XLMWithLMHeadModel, ids_BT: Tensor) -> Tensor:
    return model(ids_BT, langs=_LANGUAGE).logits


@torch.inference_mode()
def _score(model: XLMWithLMHeadModel, sentences: list[list[int]]) -> list[tuple[float, ...]]:
    return [scores.logprobs for scores in score_sequences(model, sentences, _LANGUAGE)]


def _difference(work: Work, ours: Any, theirs: Any) -> tuple[str, float, float | None]:
    """Return what differs, by how much, and how much it may in float32."""
    if work == "forward":
        import numpy

        theirs_BTV = torch.from_numpy(numpy.array(theirs))
        error = float((ours - theirs_BTV).abs().max() / ours.abs().max())
        return "largest difference of logits, relative to the largest", error, _LOGIT_TOLERANCE
    if work == "score":
        pairs = zip(ours, theirs, strict=True)
        differences = [abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True)]
        return "largest difference of log-probabilities, nats", max(differences), _LOGPROB_TOLERANCE
    differing = float(sum(row != other for row, other in zip(ours, theirs, strict=True)))
    # A near tie that either library decides otherwise changes all later tokens of its row.
    return f"continuations that differ, of {len(ours)}", differing, None


def _names(ids: list[int]) -> list[str]:
    return [str(id_) for id_ in ids]


def write_language_model(model: XLMWithLMHeadModel, directory: Path) -> None:
    """Write a language model in the format of CTranslate2, for one language.

    The format has no languages: the embedding of the language is added to the positions.

    Args:
        model: The model, in float32.
        directory: A new directory.
    """
    from ctranslate2.specs import Activation, TransformerDecoderModelSpec

    config: XLMConfig = model.config
    spec = TransformerDecoderModelSpec.from_config(
        config.n_layers,
        config.n_heads,
        pre_norm=False,
        activation=Activation.GELU if config.gelu_activation else Activation.RELU,
        layernorm_embedding=True,
    )
    copy_half(spec.decoder, spec.decoder.embeddings, model, _LANGUAGE)
    copy_head(spec.decoder, model)
    spec.register_vocabulary([str(index) for index in range(config.vocab_size)])
    for token in ("unk_token", "bos_token", "eos_token"):
        setattr(spec.config, token, str(config.unk_token_id if token == "unk_token" else config.eos_token_id))
    spec.validate()
    directory.mkdir()
    spec.save(str(directory))
