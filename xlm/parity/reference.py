"""Comparison of a model with numbers that the original XLM code computed and a file records.

Shapes: B batch, T positions, S source positions, X model width or vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm._io.arguments import as_path
from xlm.checkpoint.hf_weights import read_safetensors
from xlm.checkpoint.state_dict_map import ORIGINAL
from xlm.errors import CheckpointError
from xlm.model.head import IGNORED_LABEL
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.parity import (
    GRADIENT_BOUND,
    LOGPROB_BOUND,
    LOSS_BOUND,
    Comparison,
    ParityReport,
    compare_relative,
    larger,
    other_model_error,
)
from xlm.scoring.logprobs import token_logprobs

_SIDES = ("src_ids", "src_lengths", "tgt_ids", "tgt_lengths")
"""What a reference must have of a direction of translation."""


def against_reference(model: str | PathLike[str], reference: str | PathLike[str]) -> ParityReport:
    """Compare a model with numbers that the original computed.

    Args:
        model: A checkpoint of the original or a directory, of a language model or a translation model.
        reference: For a language model, a safetensors file with ``input_ids`` (B, T), optionally ``langs``,
            ``position_ids`` (B, T) and ``lengths`` (B,), and any of ``causal.hidden``, ``causal.logits``,
            ``bidirectional.hidden``, ``bidirectional.logits``, ``causal.position_ids.logits``, ``hidden``, ``logits``,
            ``train.rows``, ``train.loss``, ``train.grad.NAME``; or a JSON file with ``sentences``, each with ``lang``,
            ``ids`` and ``logprobs`` (in nats, one for each id but the first).

            For a translation model, a safetensors file with, for each direction, such as ``en-de.``, behind that
            prefix: ``src_ids`` (B, S), ``src_lengths`` (B,), ``tgt_ids`` (B, T), ``tgt_lengths`` (B,), optionally
            ``src_langs`` (B, S) and ``tgt_langs`` (B, T), and any of ``encoder.hidden``, ``decoder.hidden``,
            ``decoder.logits``, ``loss``, ``grad.encoder.NAME``, ``grad.decoder.NAME``.

    Raises:
        CheckpointError: The model or the reference cannot be read, or the reference belongs to another model.
    """
    path = as_path("reference", reference)
    if path.suffix == ".json":
        comparisons: Iterator[Comparison] = _sentences(model, path)
    else:
        recorded = read_safetensors(path)
        directions = sorted(name.removesuffix("src_ids") for name in recorded if name.endswith(".src_ids"))
        if "input_ids" not in recorded and not directions:
            names = ", ".join(sorted(recorded)[:8])
            raise CheckpointError(
                "the reference has no input_ids",
                where=path,
                found=names,
                expected="input_ids, or for a translation model src_ids of a direction, such as de-en.src_ids",
            )
        if directions:
            comparisons = _translations(model, recorded, directions, where=path)
        else:
            comparisons = _recorded(model, recorded)
    report = ParityReport(model=str(model), against=str(reference), comparisons=tuple(comparisons))
    if not report.comparisons:
        raise CheckpointError("the reference holds nothing to compare", where=path, expected="logits, hidden, a loss")
    return report


def _recorded(model: str | PathLike[str], recorded: dict[str, Tensor]) -> Iterator[Comparison]:
    ids_BT = recorded["input_ids"]
    inputs: dict[str, Any] = {"langs": recorded.get("langs"), "lengths": recorded.get("lengths")}
    lengths_B = recorded.get("lengths", torch.full(ids_BT.shape[:1], ids_BT.shape[1]))
    valid_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    for direction in ("causal", "bidirectional"):
        wanted = [name for name in recorded if name.startswith(f"{direction}.")]
        if direction == "causal":
            wanted += [name for name in ("hidden", "logits") if name in recorded]
        if not wanted:
            continue
        ours = XLMWithLMHeadModel.from_pretrained(model, causal=direction == "causal")
        for name in sorted(wanted):
            positions = recorded["position_ids"] if ".position_ids." in name else None
            with torch.inference_mode():
                hidden_BTD = ours.hidden(ids_BT, **inputs, position_ids=positions)
                actual_BTX = ours.logits(hidden_BTD) if name.endswith("logits") else hidden_BTD
            yield compare_relative(name, actual_BTX[valid_BT], recorded[name][valid_BT])
    if "train.loss" in recorded:
        yield from _training(XLMWithLMHeadModel.from_pretrained(model, causal=True), recorded, inputs, valid_BT)


def _training(
    ours: XLMWithLMHeadModel, recorded: dict[str, Tensor], inputs: dict[str, Any], valid_BT: Tensor
) -> Iterator[Comparison]:
    rows = recorded.get("train.rows")
    if rows is None or rows.dtype != torch.int64 or not bool(((rows >= 0) & (rows < len(valid_BT))).all()):
        raise CheckpointError(
            "the reference does not name the rows of the training loss",
            where="train.rows",
            found=rows,
            expected=f"rows from 0 to {len(valid_BT) - 1}",
        )
    ids_BT = recorded["input_ids"][rows]
    chosen: dict[str, Any] = {name: None if value is None else value[rows] for name, value in inputs.items()}
    loss = ours(ids_BT, **chosen, labels=ids_BT.masked_fill(~valid_BT[rows], IGNORED_LABEL)).loss
    yield from _loss_and_gradients(ours, loss, recorded, prefix="train.")


def _translations(
    model: str | PathLike[str], recorded: dict[str, Tensor], directions: list[str], *, where: Path
) -> Iterator[Comparison]:
    ours = XLMEncoderDecoderModel.from_pretrained(model)
    for prefix in directions:
        missing = [name for name in _SIDES if prefix + name not in recorded]
        if missing:
            raise CheckpointError(
                f"the reference lacks {', '.join(missing)}",
                where=f"{where}, {prefix}src_ids",
                expected=", ".join(_SIDES),
            )
        source_BS, source_lengths_B, target_BT, target_lengths_B = (recorded[prefix + name] for name in _SIDES)
        has_languages = ours.config.has_language_embeddings
        output = ours(
            source_BS,
            target_BT,
            langs=recorded.get(f"{prefix}src_langs") if has_languages else None,
            decoder_langs=recorded.get(f"{prefix}tgt_langs") if has_languages else None,
            lengths=source_lengths_B,
            decoder_lengths=target_lengths_B,
            labels=target_BT,
        )
        valid_BS = torch.arange(source_BS.shape[1]) < source_lengths_B[:, None]
        valid_BT = torch.arange(target_BT.shape[1]) < target_lengths_B[:, None]
        numbers = {
            "encoder.hidden": (output.encoder_hidden_state, valid_BS),
            "decoder.hidden": (output.decoder_hidden_state, valid_BT),
            "decoder.logits": (output.logits, valid_BT),
        }
        for name, (actual_BTX, valid) in numbers.items():
            if (expected := recorded.get(prefix + name)) is not None:
                yield compare_relative(prefix + name, actual_BTX.detach()[valid], expected[valid])
        if f"{prefix}loss" in recorded:
            ours.zero_grad()
            yield from _loss_and_gradients(ours, output.loss, recorded, prefix=prefix)


def _loss_and_gradients(
    ours: XLMWithLMHeadModel | XLMEncoderDecoderModel, loss: Any, recorded: dict[str, Tensor], *, prefix: str
) -> Iterator[Comparison]:
    loss.backward()
    worst = abs(float(loss.detach()) - float(recorded[f"{prefix}loss"]))
    yield Comparison(name=f"{prefix}loss", compared=1, worst=worst, bound=LOSS_BOUND, unit="nats")
    gradients = {ORIGINAL.theirs(name): weight.grad for name, weight in ours.named_parameters()}
    worst_gradient, compared = 0.0, 0
    for name, expected in recorded.items():
        if not name.startswith(f"{prefix}grad."):
            continue
        actual = gradients.get(name.removeprefix(f"{prefix}grad."))
        if actual is None or actual.shape != expected.shape:
            raise other_model_error(name, actual=actual, expected=expected)
        # The bias of the keys shifts all scores of a query equally, and the softmax cancels the shift. So its true
        # gradient is zero, and both gradients are only rounding noise. Their difference is divided by the norm of the
        # gradient of the keys' weight.
        scale = recorded.get(name.replace(".k_lin.bias", ".k_lin.weight"), expected).norm()
        worst_gradient = larger(worst_gradient, float((actual - expected).norm() / scale))
        compared += expected.numel()
    if compared:
        yield Comparison(
            name=f"{prefix}grad", compared=compared, worst=worst_gradient, bound=GRADIENT_BOUND, unit="of the norm"
        )


def _sentences(model: str | PathLike[str], path: Path) -> Iterator[Comparison]:
    try:
        sentences = json.loads(path.read_text(encoding="utf-8"))["sentences"]
        expected = [
            (row["lang"], [int(index) for index in row["ids"]], torch.tensor(row["logprobs"], dtype=torch.float32))
            for row in sentences
        ]
        for number, (_, ids, logprobs) in enumerate(expected, start=1):
            if logprobs.shape != (len(ids) - 1,):
                raise ValueError(f"sentence {number} needs one log-probability for each id but the first")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the reference cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="JSON with sentences, each with lang, ids, logprobs",
        ) from error
    ours = XLMWithLMHeadModel.from_pretrained(model)
    worst, compared = 0.0, 0
    for lang, ids, logprobs in expected:
        with torch.inference_mode():
            actual = token_logprobs(ours, ids, lang)
        worst = larger(worst, float((actual - logprobs).abs().max()))
        compared += len(actual)
    if compared:
        yield Comparison(
            name=f"log-probabilities of {len(expected)} sentences",
            compared=compared,
            worst=worst,
            bound=LOGPROB_BOUND,
            unit="nats",
        )
