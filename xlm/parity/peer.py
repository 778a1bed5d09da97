"""Comparison of this library with ``transformers`` on the same model files.

Shapes: B batch, T positions, D model width, V vocabulary, C = B * T.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xlm._io.dependencies import needing
from xlm.checkpoint.convert import convert
from xlm.checkpoint.load import open_checkpoint
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.tokenizer_files import has_tokenizer, load_tokenizer
from xlm.errors import InputError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.parity import LOGITS_BOUND, ROUNDING_FACTOR, Comparison, ParityReport, compare_count, larger
from xlm.tokenizer.batches import in_batches

_RANDOM_ROWS, _RANDOM_LENGTH = 4, 64
_BATCH = 16
_Forward = Callable[..., Tensor]
"""Function of the inputs of a forward pass that returns logits, (B, T, V)."""


def against_transformers(
    model: str | PathLike[str], *, texts: Iterable[str] | None = None, lang: str | None = None
) -> ParityReport:
    """Compare a model with ``transformers`` on the same files, both causal or both bidirectional.

    Args:
        model: A checkpoint of the original, a directory in the ``transformers`` layout, the name of a bundled model,
            or an id on the hub.
        texts: Sentences to run both models on, cut to the model's positions; ``None`` for random ids.
        lang: Language of the texts, required with texts.

    Raises:
        InputError: ``texts`` is empty, ``lang`` or the model's tokenizer is missing, or the model translates.
        DependencyError: ``transformers`` is not installed.
    """
    path = find_model(model)
    if open_checkpoint(path).is_encoder_decoder:
        raise InputError(
            "transformers has no such translation model to compare with",
            where=model,
            remedy="give numbers of the original: --reference FILE",
        )
    texts = None if texts is None else list(itertools.chain.from_iterable(in_batches(texts)))
    if texts is not None and (not texts or lang is None or not has_tokenizer(path)):
        raise InputError(
            "there are no texts, or they cannot be tokenized",
            where=model,
            found=f"{len(texts)} texts, language {lang}, {'a' if has_tokenizer(path) else 'no'} tokenizer",
            expected="at least one text, its language, and a model directory with a tokenizer",
            remedy="convert a .pth first: xlm convert MODEL.pth DIRECTORY --codes CODES",
        )
    transformers = import_transformers()
    with tempfile.TemporaryDirectory() as scratch:
        directory = path
        if not directory.is_dir():
            directory = Path(scratch) / "converted"
            convert(path, directory)
        ours = XLMWithLMHeadModel.from_pretrained(directory)
        theirs, info = load_peer(directory, causal=ours.config.causal)
        differing = sum(len(names) for names in info.values())
        comparisons = [compare_count("weights it misses or adds", len(ours.state_dict()), differing)]
        if texts is None:
            rows = _random_rows(ours.config)
            # Give each row the next language, to test as many languages as possible.
            langs: list[str | int] = [index % ours.config.n_langs for index in range(len(rows))]
        else:
            assert lang is not None
            rows, difference = _tokenized(directory, texts, lang, ours.config.max_position_embeddings)
            langs = [lang] * len(rows)
            comparisons.append(difference)
        comparisons += _both_models(ours, theirs, rows, langs)
    against = f"transformers {transformers.__version__}"
    return ParityReport(model=str(model), against=against, comparisons=tuple(comparisons))


def import_transformers() -> Any:
    """Import ``transformers`` with its progress bars off, and return it.

    Raises:
        DependencyError: ``transformers`` is not installed.
    """
    install = "'xlm[transformers]', or give --reference FILE"
    with needing("transformers is not installed", where="xlm parity without --reference", install=install):
        import transformers
    transformers.logging.disable_progress_bar()
    return transformers


def load_peer(
    directory: Path, *, causal: bool = True, dtype: str = "float32", device: torch.device | str = "cpu"
) -> tuple[Any, dict[str, Any]]:
    """Load the model of a directory with ``transformers``, in evaluation mode.

    Args:
        directory: Directory in the ``transformers`` layout.
        causal: Whether a token attends to earlier tokens only; overrides the configuration.
        dtype: Weight dtype.
        device: Device of the weights.

    Returns:
        The model, and lists of the names of missing and unexpected weights.

    Raises:
        DependencyError: ``transformers`` is not installed.
    """
    model, info = import_transformers().XLMWithLMHeadModel.from_pretrained(
        directory, causal=causal, dtype=getattr(torch, dtype), output_loading_info=True
    )
    return model.eval().to(device), info


def encode_as_peer(theirs: Any, text: str, lang: str) -> list[int]:
    """Return a text's ids from a tokenizer of ``transformers``, by the rules of its language, without special tokens.

    The tokenizer's own ``encode`` takes no language and splits every text by English rules.
    """
    ids: list[int] = theirs.convert_tokens_to_ids(theirs._tokenize(text, lang=lang))
    return ids


def _both_models(
    ours: XLMWithLMHeadModel, theirs: Any, rows: Sequence[list[int]], langs: Sequence[str | int]
) -> list[Comparison]:
    """Compare the logits of both models at all positions that are not padding.

    In some trained models, rounding to float32 alone moves logits by more than ``LOGITS_BOUND``. If the logits differ
    by more, they are also compared in float64, where the softmax of ``transformers`` still uses float32. The bound
    stays the same in float64. In float32, it is raised to ``ROUNDING_FACTOR`` times the rounding error of
    ``transformers``, which is the difference between its float32 and float64 logits.
    """
    ours_32, theirs_32 = partial(_our_logits, ours), partial(_their_logits, theirs)
    worst, compared = _worst(ours_32, theirs_32, _batches(ours.config, rows, langs, _BATCH))
    logits = Comparison(name="logits", compared=compared, worst=worst, bound=LOGITS_BOUND, unit="of the largest")
    if logits.holds:
        return [logits]
    ours_64 = partial(_our_logits, copy.deepcopy(ours).double())
    theirs_64 = partial(_their_logits, copy.deepcopy(theirs).double())
    singly = list(_batches(ours.config, rows, langs, 1))  # smaller batches, because float64 needs twice the memory
    rounding, _ = _worst(theirs_32, theirs_64, singly)
    difference, _ = _worst(ours_64, theirs_64, singly)
    return [
        dataclasses.replace(logits, bound=larger(LOGITS_BOUND, ROUNDING_FACTOR * rounding)),
        dataclasses.replace(logits, name="logits in float64", worst=difference),
    ]


def _batches(
    config: XLMConfig, rows: Sequence[list[int]], langs: Sequence[str | int], size: int
) -> Iterator[dict[str, Tensor | None]]:
    """Yield inputs of forward passes, with ``size`` rows each, padded on the right."""
    for start in range(0, len(rows), size):
        tensors = [torch.tensor(row) for row in rows[start : start + size]]
        ids_BT = pad_sequence(tensors, batch_first=True, padding_value=config.pad_token_id)
        langs_B1 = torch.tensor([[config.language_id(lang)] for lang in langs[start : start + size]])
        yield {
            "input_ids": ids_BT,
            "langs": langs_B1.expand_as(ids_BT) if config.has_language_embeddings else None,
            "lengths": torch.tensor([len(row) for row in tensors]),
        }


def _worst(first: _Forward, second: _Forward, batches: Iterable[dict[str, Tensor | None]]) -> tuple[float, int]:
    """Return the largest difference, relative to the largest logit of the second model, and the number of logits."""
    worst, largest, compared = 0.0, 0.0, 0
    for batch in batches:
        with torch.inference_mode():
            actual_BTV, expected_BTV = first(**batch), second(**batch)
        assert batch["lengths"] is not None
        for index, length in enumerate(batch["lengths"].tolist()):
            actual_TV, expected_TV = actual_BTV[index, :length], expected_BTV[index, :length]
            worst = larger(worst, float((actual_TV - expected_TV).abs().max()))
            largest = max(largest, float(expected_TV.abs().max()))
            compared += actual_TV.numel()
    return worst / largest, compared


def _our_logits(ours: XLMWithLMHeadModel, **inputs: Any) -> Tensor:
    logits_BTV: Tensor = ours(**inputs).logits
    return logits_BTV


def _their_logits(theirs: Any, **inputs: Any) -> Tensor:
    if not theirs.config.asm:
        logits_BTV: Tensor = theirs(**inputs).logits
        return logits_BTV
    # The adaptive head of transformers fails, because it passes a tensor (B, T, D) to a torch module that accepts two
    # dimensions at most. Call that module directly instead.
    hidden_BTD = theirs.transformer(**inputs).last_hidden_state
    logprobs_CV: Tensor = theirs.pred_layer.proj.log_prob(hidden_BTD.flatten(0, 1))
    return logprobs_CV.view(*hidden_BTD.shape[:2], -1)


def _tokenized(directory: Path, texts: Sequence[str], lang: str, longest: int) -> tuple[list[list[int]], Comparison]:
    """Return the ids of texts in a language, and their comparison with the ids of ``transformers``."""
    import transformers

    ours = load_tokenizer(directory, preset="transformers")
    theirs = transformers.XLMTokenizer.from_pretrained(directory)
    rows, differing = [], 0
    for text in texts:
        rows.append(ours.encode(text, lang=lang))
        differing += encode_as_peer(theirs, text, lang) != ours.encode(text, lang=lang, add_special_tokens=False)
    return [row[:longest] for row in rows], compare_count("lines it tokenizes otherwise", len(texts), differing)


def _random_rows(config: XLMConfig) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    longest = min(_RANDOM_LENGTH, config.max_position_embeddings)
    rows = []
    for index in range(_RANDOM_ROWS):
        length = max(1, longest - index * longest // (2 * _RANDOM_ROWS))
        ids = torch.randint(config.vocab_size - 1, (length,), generator=generator)
        # Use every id except that of <pad>, which would mark padding.
        rows.append((ids + (ids >= config.pad_token_id)).tolist())
    return rows
