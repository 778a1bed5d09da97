"""Writing checkpoints that the original's own loaders accept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.keys import ORIGINAL
from xlm.checkpoint.original import EXTRA_CONFIG_KEY, LAYER_NORM_EPS, UNNAMED_FIELDS
from xlm.checkpoint.plain_data import to_json, without_numpy
from xlm.errors import CheckpointError
from xlm.model.config import XLMConfig

_UNTRAINED = {"epoch": 0, "n_total_iter": 0, "best_metrics": {}, "best_stopping_criterion": -1e12}


def write_original(
    path: Path, checkpoint: Checkpoint, words: Sequence[str], *, dtype: torch.dtype | None = None
) -> None:
    """Writes a ``.pth`` with the keys and names of the original.

    It holds no numpy objects, so that a plain ``torch.load`` opens it; numbers and arrays in ``params`` that were
    numpy's are equal numbers and tensors.

    Args:
        path: The file.
        checkpoint: What to write. Without a record of an original run, ``params`` are made from the configuration.
        words: The dictionary, in id order and the original's ``@@`` notation.
        dtype: Type to write; ``None`` means each tensor's own.

    Raises:
        CheckpointError: The original cannot represent the model.
        OSError: The file cannot be written.
    """
    if checkpoint.config.layer_norm_eps != LAYER_NORM_EPS:
        raise CheckpointError(
            "the original cannot represent this model",
            where=checkpoint.source,
            found=f"layer_norm_eps = {checkpoint.config.layer_norm_eps}",
            expected=f"{LAYER_NORM_EPS}, which is fixed in its code",
        )
    record = checkpoint.record
    counts = record.counts if record is not None else (0,) * len(words)
    params = dict(record.params) if record is not None else params_of(checkpoint.config)
    unnamed = {name: getattr(checkpoint.config, name) for name in UNNAMED_FIELDS}
    params[EXTRA_CONFIG_KEY] = to_json({**checkpoint.extra_config, **unnamed})
    training = record.training if record is not None else {}
    data = {
        **{key: without_numpy(training.get(key, default)) for key, default in _UNTRAINED.items()},
        "model": state_dict(checkpoint, dtype),
        "dico_id2word": dict(enumerate(words)),
        "dico_word2id": {word: index for index, word in enumerate(words)},
        "dico_counts": dict(zip(words, counts, strict=True)),
        "params": without_numpy(params),
    }
    with path.open("wb") as file:
        try:
            torch.save(data, file)
        except RuntimeError as error:
            # On a full disk torch fails a second time, and hides the first error behind that.
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error


def state_dict(checkpoint: Checkpoint, dtype: torch.dtype | None) -> OrderedDict[str, Tensor]:
    """Weights under the original's names; a shared weight stands under both its names and is stored once."""
    theirs = OrderedDict(
        (ORIGINAL.theirs(name), _own_storage(tensor.to(dtype or tensor.dtype)))
        for name, tensor in checkpoint.tensors.items()
    )
    if checkpoint.config.tied:
        theirs["pred_layer.proj.weight"] = theirs["embeddings.weight"]
    return theirs


def _own_storage(tensor: Tensor) -> Tensor:
    # torch.save writes the whole storage that a tensor looks into.
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone()


def params_of(config: XLMConfig) -> dict[str, Any]:
    """The original's ``params`` for a model that it never trained, as far as its loaders look at them."""
    # The original names every language; a model that came without names gets made-up ones.
    lang2id = dict(config.lang2id) or {f"lang{index}": index for index in range(config.n_langs)}
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
        "share_inout_emb": config.share_inout_emb,
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
