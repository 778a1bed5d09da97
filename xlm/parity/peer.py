"""Against ``transformers`` on the same files.

Shapes: B batch, T positions, D model width, V vocabulary, C = B * T.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.checkpoint.convert import convert
from xlm.checkpoint.load import load_model
from xlm.checkpoint.names import find_model
from xlm.checkpoint.tokenizer_files import has_tokenizer, load_tokenizer
from xlm.errors import DependencyError, InputError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.parity.report import LOGITS_BOUND, Comparison, ParityReport, count, larger

_RANDOM_ROWS, _RANDOM_LENGTH = 4, 64
_BATCH = 16
_ROUNDING = 10 * LOGITS_BOUND
"""What rounding can explain: either side's float32 logits of the bundled model were seen 5e-6 from those in float64."""
_Batch = tuple[list[list[int]], str | int | None]
"""Rows of ids and their language, or none."""


def against_transformers(
    model: str | PathLike[str], *, texts: Sequence[str] | None = None, lang: str | None = None
) -> ParityReport:
    """Holds a model against ``transformers`` on the same files, attention causal or not as ours has it.

    Args:
        model: A checkpoint of the original, a directory in the ``transformers`` layout, a bundled model's name, or an
            id on the hub.
        texts: What to run both on, one sentence each, cut to the model's positions; random ids when ``None``.
        lang: Language of the texts; needed with them.

    Raises:
        InputError: Texts without a language or without a tokenizer, or none at all.
        DependencyError: ``transformers`` is not installed.
    """
    path = find_model(model)
    if texts is not None and (not texts or lang is None or not has_tokenizer(path)):
        raise InputError(
            "there are no texts, or they cannot be tokenized",
            where=model,
            found=f"{len(texts)} texts, language {lang}, {'a' if has_tokenizer(path) else 'no'} tokenizer",
            expected="at least one text, its language, and a model directory with a tokenizer",
            remedy="convert a .pth first: xlm convert MODEL.pth DIRECTORY --codes CODES",
        )
    try:
        import transformers
    except ImportError as error:
        raise DependencyError(
            "transformers is not installed",
            where="xlm parity without --reference",
            remedy="pip install 'xlm[transformers]', or give --reference FILE",
        ) from error
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        directory = path
        if not directory.is_dir():
            directory = Path(scratch) / "converted"
            convert(path, directory)
        ours = load_model(directory)
        theirs, info = transformers.XLMWithLMHeadModel.from_pretrained(
            directory, causal=ours.config.causal, dtype=torch.float32, output_loading_info=True
        )
        comparisons = [
            count("weights it misses or adds", len(ours.state_dict()), sum(len(names) for names in info.values()))
        ]
        if texts is None:
            batches: Iterable[_Batch] = [(_random_rows(ours.config), 0)]
        else:
            assert lang is not None
            rows, difference = _tokenized(directory, texts, lang, ours.config.max_position_embeddings)
            comparisons.append(difference)
            batches = ((rows[start : start + _BATCH], lang) for start in range(0, len(rows), _BATCH))
        comparisons.append(_both_models(ours, theirs.eval(), batches))
    against = f"transformers {transformers.__version__}"
    return ParityReport(model=str(model), against=against, comparisons=tuple(comparisons))


def _both_models(ours: XLMWithLMHeadModel, theirs: Any, batches: Iterable[_Batch]) -> Comparison:
    """Logits of both at all real positions; the largest difference over all batches.

    A trained model can be such that rounding to float32 moves its logits by more than the bound. Where the difference
    is somewhat more, float64, to which both are brought, decides whether that is rounding or another computation.
    """
    batches = list(batches)
    worst, compared = _worst(ours, theirs, batches)
    name = "logits"
    if LOGITS_BOUND < worst <= _ROUNDING:
        name = f"logits in float64 (in float32: {worst:.2g})"
        worst, compared = _worst(ours.double(), theirs.double(), batches)
    return Comparison(name=name, compared=compared, worst=worst, bound=LOGITS_BOUND, unit="of the largest")


def _worst(ours: XLMWithLMHeadModel, theirs: Any, batches: Sequence[_Batch]) -> tuple[float, int]:
    """The largest difference, relative to the largest logit, and how many were compared."""
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
            worst = larger(worst, float((found_TV - expected_TV).abs().max()))
            largest = max(largest, float(expected_TV.abs().max()))
            compared += found_TV.numel()
    return worst / largest, compared


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
    return [row[:longest] for row in rows], count("lines it tokenizes otherwise", len(texts), differing)


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
