"""Does this model give the numbers it should? Against recorded answers of the original, or against ``transformers``.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.checkpoint.convert import convert
from xlm.checkpoint.keys import ORIGINAL
from xlm.checkpoint.layout_weights import read_safetensors
from xlm.checkpoint.load import load_model
from xlm.checkpoint.tokenizer_files import has_tokenizer, load_tokenizer
from xlm.errors import CheckpointError, DependencyError, InputError
from xlm.model.config import XLMConfig
from xlm.model.head import IGNORED_LABEL
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.logprobs import token_logprobs

# Why these bounds: float32 carries 6e-8 relative, and a different order of summation over a width of 1,000 and a few
# layers was seen to move logits by up to 5e-7 of the largest one. The recorded answers themselves are as uncertain.
LOGITS_BOUND = 2e-6
"""Largest difference of logits and hidden states, relative to the largest of them."""
LOSS_BOUND = 1e-5
"""Largest difference of the loss, in nats."""
GRADIENT_BOUND = 1e-5
"""Norm of a gradient's difference, relative to the gradient's norm."""
LOGPROB_BOUND = 1e-4
"""Largest difference of a token's log-probability, in nats."""

_RANDOM_ROWS, _RANDOM_LENGTH = 4, 64
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One kind of number, compared.

    Attributes:
        name: What was compared.
        compared: How many numbers.
        worst: The largest difference.
        bound: The largest that is allowed.
        unit: What both are measured in.
    """

    name: str
    compared: int
    worst: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the worst difference is within the bound; never when it is not a number."""
        return self.worst <= self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """Everything that was compared.

    Attributes:
        model: The model that was checked.
        against: Whose numbers it was held against.
        comparisons: One a kind of number.
    """

    model: str
    against: str
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether every comparison is within its bound."""
        return all(comparison.holds for comparison in self.comparisons)

    def __str__(self) -> str:
        width = max(len(comparison.name) for comparison in self.comparisons)
        lines = [f"{self.model} against {self.against}"]
        for c in self.comparisons:
            verdict = "ok" if c.holds else "DIFFERS"
            lines.append(
                f"  {c.name:<{width}}  {c.compared:>12,} compared  worst {c.worst:9.3g}  "
                f"allowed {c.bound:7.1g} {c.unit}  {verdict}"
            )
        lines.append("parity holds" if self.holds else "parity DOES NOT HOLD")
        return "\n".join(lines)


def against_reference(model: str | PathLike[str], reference: str | PathLike[str]) -> ParityReport:
    """Holds a model against answers of the original that were recorded in a file.

    Args:
        model: A checkpoint of the original or a directory in the ``transformers`` layout.
        reference: Either a safetensors file with ``input_ids`` (B, T), perhaps ``langs``, ``position_ids`` (B, T) and
            ``lengths`` (B,), and any of ``causal.hidden``, ``causal.logits``, ``bidirectional.hidden``,
            ``bidirectional.logits``, ``causal.position_ids.logits``, ``hidden``, ``logits``, ``train.rows``,
            ``train.loss``, ``train.grad.NAME``; or a JSON file with ``sentences``, each with ``lang``, ``ids`` and
            ``logprobs`` (nats, one for each id but the first).

    Raises:
        CheckpointError: The model or the reference cannot be read, or they do not belong together.
    """
    path = Path(reference)
    if path.suffix == ".json":
        comparisons: Iterator[Comparison] = _sentences(model, path)
    else:
        recorded = read_safetensors(path)
        if "input_ids" not in recorded:
            raise CheckpointError(
                "the reference has no input_ids",
                where=path,
                found=", ".join(sorted(recorded)[:8]),
                expected="input_ids",
            )
        comparisons = _recorded(model, recorded)
    report = ParityReport(model=str(model), against=str(reference), comparisons=tuple(comparisons))
    if not report.comparisons:
        raise CheckpointError(
            "the reference holds nothing to compare", where=path, expected="logits, hidden, train.loss"
        )
    return report


def against_transformers(
    model: str | PathLike[str], *, texts: Sequence[str] | None = None, lang: str | None = None
) -> ParityReport:
    """Holds a model against ``transformers`` on the same files, attention causal or not as ours has it.

    Args:
        model: A checkpoint of the original or a directory in the ``transformers`` layout.
        texts: What to run both on, one sentence each, cut to the model's positions; random ids when ``None``.
        lang: Language of the texts; needed with them.

    Raises:
        DependencyError: ``transformers`` is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DependencyError(
            "transformers is not installed",
            where="xlm parity without --reference",
            remedy="pip install 'xlm[transformers]', or give --reference FILE",
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(model)
        if not directory.is_dir():
            directory = Path(scratch) / "converted"
            convert(model, directory)
        ours = load_model(directory)
        theirs, info = transformers.XLMWithLMHeadModel.from_pretrained(
            directory, causal=ours.config.causal, dtype=torch.float32, output_loading_info=True
        )
        comparisons = [
            _count("weights it misses or adds", len(ours.state_dict()), sum(len(names) for names in info.values()))
        ]
        if texts is None:
            batches: Iterator[tuple[list[list[int]], str | int | None]] = iter([(_random_rows(ours.config), 0)])
        else:
            if lang is None or not has_tokenizer(directory):
                raise InputError("texts need a language and a model with a tokenizer", where=directory, found=lang)
            rows, difference = _tokenized(directory, texts, lang, ours.config.max_position_embeddings)
            comparisons.append(difference)
            batches = ((rows[start : start + _BATCH], lang) for start in range(0, len(rows), _BATCH))
        comparisons += _both_models(ours, theirs.eval(), batches)
    against = f"transformers {transformers.__version__}"
    return ParityReport(model=str(model), against=against, comparisons=tuple(comparisons))


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
        ours = load_model(model, causal=direction == "causal")
        for name in sorted(wanted):
            positions = recorded["position_ids"] if ".position_ids." in name else None
            with torch.inference_mode():
                output = ours(ids_BT, **inputs, position_ids=positions, output_hidden_states=True)
            found_BTX = output.logits if name.endswith("logits") else output.hidden_states[-1]
            yield _relative(name, found_BTX[valid_BT], recorded[name][valid_BT])
    if "train.loss" in recorded:
        yield from _training(load_model(model, causal=True), recorded, inputs, valid_BT)


def _training(
    ours: XLMWithLMHeadModel, recorded: dict[str, Tensor], inputs: dict[str, Any], valid_BT: Tensor
) -> Iterator[Comparison]:
    rows = recorded["train.rows"]
    ids_BT = recorded["input_ids"][rows]
    chosen = {name: None if value is None else value[rows] for name, value in inputs.items()}
    loss = ours(ids_BT, **chosen, labels=ids_BT.masked_fill(~valid_BT[rows], IGNORED_LABEL)).loss
    loss.backward()
    worst = abs(float(loss.detach()) - float(recorded["train.loss"]))
    yield Comparison(name="train.loss", compared=1, worst=worst, bound=LOSS_BOUND, unit="nats")
    gradients = {ORIGINAL.theirs(name): weight.grad for name, weight in ours.named_parameters()}
    worst_gradient, compared = 0.0, 0
    for name, expected in recorded.items():
        if not name.startswith("train.grad."):
            continue
        found = gradients.get(name.removeprefix("train.grad."))
        if found is None:
            raise CheckpointError("the reference is of another model", where=name, found="no such weight in the model")
        # A bias added to all keys moves all scores of a query alike, which a softmax does not see: its true gradient
        # is zero, and both sides hold rounding noise. That noise is held against the gradient of the keys' weight.
        scale = recorded[name.replace(".k_lin.bias", ".k_lin.weight")].norm()
        worst_gradient = max(worst_gradient, float((found - expected).norm() / scale))
        compared += expected.numel()
    if compared:
        yield Comparison(
            name="train.grad", compared=compared, worst=worst_gradient, bound=GRADIENT_BOUND, unit="of the norm"
        )


def _sentences(model: str | PathLike[str], path: Path) -> Iterator[Comparison]:
    try:
        sentences = json.loads(path.read_text(encoding="utf-8"))["sentences"]
        expected = [(row["lang"], list(row["ids"]), torch.tensor(row["logprobs"])) for row in sentences]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the reference cannot be read",
            where=path,
            found=f"{type(error).__name__}: {error}",
            expected="JSON with sentences, each with lang, ids, logprobs",
        ) from error
    ours = load_model(model)
    worst, compared = 0.0, 0
    for lang, ids, logprobs in expected:
        with torch.inference_mode():
            found = token_logprobs(ours, ids, lang)
        worst = max(worst, float((found - logprobs).abs().max()))
        compared += len(found)
    if compared:
        yield Comparison(
            name=f"log-probabilities of {len(expected)} sentences",
            compared=compared,
            worst=worst,
            bound=LOGPROB_BOUND,
            unit="nats",
        )


def _both_models(
    ours: XLMWithLMHeadModel, theirs: Any, batches: Iterator[tuple[list[list[int]], str | int | None]]
) -> list[Comparison]:
    """Logits of both at all real positions; the largest difference over all batches."""
    worst, largest, compared = 0.0, 0.0, 0
    for rows, lang in batches:
        lengths_B = torch.tensor([len(row) for row in rows])
        ids_BT = torch.full((len(rows), int(lengths_B.max())), ours.config.pad_token_id)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = torch.tensor(row)
        langs_BT = None
        if ours.config.has_language_embeddings:
            # Without a language, each row gets another one, so that all are seen.
            given = [lang] * len(rows) if isinstance(lang, str) else [i % ours.config.n_langs for i in range(len(rows))]
            languages_B1 = torch.tensor([[ours.config.language_id(language)] for language in given])
            langs_BT = languages_B1.expand_as(ids_BT)
        with torch.inference_mode():
            found_BTV = ours(ids_BT, langs=langs_BT, lengths=lengths_B).logits
            expected_BTV = _their_logits(theirs, input_ids=ids_BT, langs=langs_BT, lengths=lengths_B)
        for index, length in enumerate(lengths_B.tolist()):
            found_TV, expected_TV = found_BTV[index, :length], expected_BTV[index, :length]
            worst = max(worst, float((found_TV - expected_TV).abs().max()))
            largest = max(largest, float(expected_TV.abs().max()))
            compared += found_TV.numel()
    return [
        Comparison(name="logits", compared=compared, worst=worst / largest, bound=LOGITS_BOUND, unit="of the largest")
    ]


def _their_logits(theirs: Any, **inputs: Any) -> Tensor:
    if not theirs.config.asm:
        logits_BTV: Tensor = theirs(**inputs).logits
        return logits_BTV
    # Their adaptive head passes a batch to a torch module that takes no batches, and fails; without its last step
    # the rest of the model can still be compared.
    hidden_BTD = theirs.transformer(**inputs).last_hidden_state
    logprobs_CV: Tensor = theirs.pred_layer.proj.log_prob(hidden_BTD.flatten(0, 1))
    return logprobs_CV.view(*hidden_BTD.shape[:2], -1)


def _tokenized(directory: Path, texts: Sequence[str], lang: str, longest: int) -> tuple[list[list[int]], Comparison]:
    """Ids of the texts, and how many of them ``transformers`` tokenizes otherwise when told the language."""
    import transformers

    ours = load_tokenizer(directory, preset="transformers")
    theirs = transformers.XLMTokenizer.from_pretrained(directory)
    rows, differing = [], 0
    for text in texts:
        rows.append(ours.encode(text, lang=lang))
        expected = theirs.convert_tokens_to_ids(theirs._tokenize(text, lang=lang))
        differing += expected != ours.encode(text, lang=lang, add_special_tokens=False)
    return [row[:longest] for row in rows], _count("lines it tokenizes otherwise", len(texts), differing)


def _random_rows(config: XLMConfig) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    longest = min(_RANDOM_LENGTH, config.max_position_embeddings)
    rows = []
    for index in range(_RANDOM_ROWS):
        length = max(1, longest - index * longest // (2 * _RANDOM_ROWS))
        ids = torch.randint(config.vocab_size - 1, (length,), generator=generator)
        # Every id but that of <pad>, which would be taken for padding.
        rows.append((ids + (ids >= config.pad_token_id)).tolist())
    return rows


def _relative(name: str, found: Tensor, expected: Tensor) -> Comparison:
    if found.shape != expected.shape:
        raise CheckpointError(
            "the reference is of another model", where=name, found=tuple(expected.shape), expected=tuple(found.shape)
        )
    worst = float((found - expected).abs().max() / expected.abs().max())
    return Comparison(name=name, compared=expected.numel(), worst=worst, bound=LOGITS_BOUND, unit="of the largest")


def _count(name: str, compared: int, differing: int) -> Comparison:
    return Comparison(name=name, compared=compared, worst=differing, bound=0, unit="")
