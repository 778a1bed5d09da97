"""Write checkpoints that the original's loaders accept."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.json_codec import to_json, without_numpy
from xlm.checkpoint.original import EXTRA_CONFIG_KEY, UNNAMED_FIELDS
from xlm.checkpoint.state_dict_map import HALVES, ORIGINAL
from xlm.errors import CheckpointError
from xlm.model.config import XLMConfig
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS

# Settings that are constants in the original's code: src/model/transformer.py and src/data/dictionary.py.
_FIXED = {
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "unk_token_id": 3,
    "mask_token_id": 5,
}
# Parameters that describe the training run, not the network.
_OF_THE_RUN = ("clm_steps", "mlm_steps", "max_vocab", "min_count", "fp16")
_UNTRAINED = {"epoch": 0, "n_total_iter": 0, "best_metrics": {}, "best_stopping_criterion": -1e12}


def write_original(
    path: Path, checkpoint: Checkpoint, words: Sequence[str], *, dtype: torch.dtype | None = None
) -> None:
    """Write a ``.pth`` with the keys and names of the original.

    Python numbers and tensors replace numpy scalars and arrays in ``params``, so that ``torch.load`` opens the file
    with its default arguments.

    Args:
        path: The file to write.
        checkpoint: The checkpoint. If it has no record of an original run, ``params`` come from its configuration.
        words: The vocabulary, in id order and the original's ``@@`` notation.
        dtype: Type of the weights; ``None`` keeps the type of each tensor.

    Raises:
        CheckpointError: The original cannot represent the model.
        OSError: The file cannot be written.
    """
    record = checkpoint.provenance.record
    # Write a count of 0 for words that have none, such as words added after training.
    known = record.counts if record is not None else ()
    counts = (*known, *(0,) * (len(words) - len(known)))
    _check_representable(checkpoint, words, counts)
    params = _params_of(checkpoint.config) if record is None else _updated(record.params, checkpoint.config)
    unnamed = {name: getattr(checkpoint.config, name) for name in UNNAMED_FIELDS}
    params["encoder_only"] = not checkpoint.is_encoder_decoder
    params[EXTRA_CONFIG_KEY] = to_json({**checkpoint.provenance.extra_config, **unnamed})
    training = record.training if record is not None else {}
    data = {
        **{key: without_numpy(training.get(key, default)) for key, default in _UNTRAINED.items()},
        **_networks(checkpoint, dtype),
        "dico_id2word": dict(enumerate(words)),
        "dico_word2id": {word: index for index, word in enumerate(words)},
        "dico_counts": dict(zip(words, counts, strict=True)),
        "params": without_numpy(params),
    }
    with path.open("wb") as file:
        try:
            torch.save(data, file)
        except RuntimeError as error:
            # On a full disk torch fails a second time, and the second error hides the first.
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def _check_representable(checkpoint: Checkpoint, words: Sequence[str], counts: Sequence[int]) -> None:
    """Refuse a model that the original's code cannot load, or for which it would compute different results."""
    config = checkpoint.config
    names = sorted(config.lang2id, key=config.lang2id.__getitem__)
    rules: list[tuple[str, object, bool, object]] = [
        *((name, getattr(config, name), getattr(config, name) == value, value) for name, value in _FIXED.items()),
        # The original's command line takes the names of languages joined by hyphens, and numbers them in sorted order.
        ("languages", names, all(name and "-" not in name for name in names), "names without hyphens"),
        (
            "languages",
            names,
            not config.has_language_embeddings or names == sorted(names),
            "ids in the order of the sorted names",
        ),
        ("asm_div_value", config.asm_div_value, not config.asm or config.asm_div_value > 1, "more than 1"),
        ("words", len(words), len(words) == config.vocab_size, f"{config.vocab_size}, one for each embedding"),
        ("order of the words", "not by their counts", _is_falling(counts), "the most frequent first"),
    ]
    if wrong := [(name, value, rule) for name, value, holds, rule in rules if not holds]:
        raise CheckpointError(
            "the original cannot represent this model",
            where=checkpoint.source,
            found="; ".join(f"{name} = {value}" for name, value, _ in wrong),
            expected="; ".join(f"{name} = {rule}" for name, _, rule in wrong) + "; these values are fixed in its code",
        )


def _is_falling(counts: Sequence[int]) -> bool:
    # The original's dictionary checks the order of all words except the special words and the last word.
    return all(a >= b for a, b in itertools.pairwise(counts[len(SPECIAL_TOKENS) : -1]))


def _updated(params: Mapping[str, Any], config: XLMConfig) -> dict[str, Any]:
    """Return the parameters of a training run, updated where the model's configuration differs from them.

    A model can change after its conversion: words are added, or its ``config.json`` is edited.
    """
    current = _params_of(config)
    # These parameters repeat lang2id in forms that differ between runs, so replace them only if lang2id has changed.
    named_again = ("lgs", "langs", "id2lang")
    changed = {
        name: value
        for name, value in current.items()
        if name not in (*_OF_THE_RUN, *named_again) and not _equal(params.get(name), value)
    }
    changed |= {name: current[name] for name in named_again if "lang2id" in changed or name not in params}
    if "layer_norm_eps" in params:  # a fork's parameter, which the original lacks
        changed["layer_norm_eps"] = config.layer_norm_eps
    return {**params, **changed}


def _equal(recorded: object, value: object) -> bool:
    if isinstance(recorded, np.ndarray | Tensor):
        return False
    return (list(recorded) if isinstance(recorded, tuple) else recorded) == value


def _networks(checkpoint: Checkpoint, dtype: torch.dtype | None) -> dict[str, OrderedDict[str, Tensor]]:
    """Return the state dict of the model, or of each half of an encoder-decoder."""
    if not checkpoint.is_encoder_decoder:
        return {"model": _state_dict(checkpoint.tensors, checkpoint.config, dtype)}
    halves = {
        half: {
            name.removeprefix(f"{half}."): tensor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith(f"{half}.")
        }
        for half in HALVES
    }
    return {half: _state_dict(tensors, checkpoint.config, dtype) for half, tensors in halves.items()}


def _state_dict(
    tensors: Mapping[str, Tensor], config: XLMConfig, dtype: torch.dtype | None
) -> OrderedDict[str, Tensor]:
    """Return weights under the original's names; a tied weight is stored once, under both its names."""
    theirs = OrderedDict(
        (ORIGINAL.theirs(name), _own_storage(tensor.to(dtype or tensor.dtype))) for name, tensor in tensors.items()
    )
    if config.tied:
        theirs["pred_layer.proj.weight"] = theirs["embeddings.weight"]
    return theirs


def _own_storage(tensor: Tensor) -> Tensor:
    # torch.save would write the whole storage of a view, so copy the values of a view.
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone()


def _params_of(config: XLMConfig) -> dict[str, Any]:
    """Return the ``params`` that the original's loaders need, for a model that it did not train."""
    # The original names every language, so languages without names get artificial names.
    digits = len(str(config.n_langs - 1))
    lang2id = dict(config.lang2id) or {f"lang{index:0{digits}}": index for index in range(config.n_langs)}
    languages = sorted(lang2id, key=lang2id.__getitem__)
    objectives: Mapping[str, list[tuple[str, None]]] = {
        "clm_steps": [(language, None) for language in languages] if config.causal else [],
        "mlm_steps": [] if config.causal else [(language, None) for language in languages],
    }
    return {
        "encoder_only": True,
        "use_memory": False,
        "emb_dim": config.emb_dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "gelu_activation": config.gelu_activation,
        "share_inout_emb": config.tied,  # false for an adaptive softmax, because the original fails otherwise
        "sinusoidal_embeddings": config.sinusoidal_embeddings,
        "use_lang_emb": config.use_lang_emb,
        "asm": config.asm,
        **({"asm_cutoffs": list(config.asm_cutoffs), "asm_div_value": config.asm_div_value} if config.asm else {}),
        "n_words": config.vocab_size,
        "bos_index": config.bos_token_id,
        "eos_index": config.eos_token_id,
        "pad_index": config.pad_token_id,
        "unk_index": config.unk_token_id,
        "mask_index": config.mask_token_id,
        "n_langs": config.n_langs,
        "lgs": "-".join(languages),
        "langs": languages,
        "lang2id": lang2id,
        "id2lang": dict(enumerate(languages)),
        "max_vocab": -1,
        "min_count": 0,
        "fp16": False,
        **objectives,
    }
