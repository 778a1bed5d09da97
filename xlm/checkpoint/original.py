"""Read checkpoints of the original XLM code: ``best-*.pth``, ``periodic-*.pth``, ``checkpoint.pth``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from xlm.checkpoint.checkpoint import Checkpoint, OriginalRecord, Provenance, config_errors, refuse_unsupported
from xlm.checkpoint.json_codec import check_plain, from_json
from xlm.checkpoint.pickles import load_pickle
from xlm.checkpoint.state_dict_map import HALVES, ORIGINAL
from xlm.checkpoint.tensors import match_tensors
from xlm.errors import CheckpointError
from xlm.model.config import XLMConfig
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS

EXTRA_CONFIG_KEY = "xlm_config"
"""Key of ``params`` for settings that the original has no parameter for; only files that this library wrote have it."""

_PREFIX = "module."
_TRAINING_KEYS = ("epoch", "n_total_iter", "best_metrics", "best_stopping_criterion")
_REQUIRED = ("emb_dim", "n_layers", "n_heads", "n_words", "n_langs", "gelu_activation", "sinusoidal_embeddings")
# Parameters of the original that have the same name in our configuration.
_SAME_NAME = (
    *("emb_dim", "n_layers", "n_heads", "n_langs", "gelu_activation", "sinusoidal_embeddings"),
    *("lang2id", "use_lang_emb", "share_inout_emb", "asm", "asm_div_value", "dropout", "attention_dropout"),
    "layer_norm_eps",
)
UNNAMED_FIELDS = ("embed_init_std", "lang_id", "causal")
"""Fields of our configuration that the original has no parameter for."""

_TOKEN_IDS = {f"{name}_index": f"{name}_token_id" for name in ("bos", "eos", "pad", "unk", "mask")}


@dataclass(frozen=True, slots=True)
class OriginalDictionary:
    """The vocabulary inside an original checkpoint: words in id order, their counts, language ids."""

    words: tuple[str, ...]
    counts: tuple[int, ...]
    lang2id: dict[str, int]


def read_original(path: Path, *, causal: bool | None = None) -> Checkpoint:
    """Read a checkpoint of one of the original's language models or translation models.

    Args:
        path: The ``.pth`` file, in either of torch's formats.
        causal: Whether attention is causal; ``None`` means as in the file or, by default, its training objectives.
            Unused for a translation model.

    Raises:
        CheckpointError: The file cannot be read, or is not a checkpoint of a supported model.
    """
    data = _load(path)
    params = dict(data["params"])
    training = {key: data[key] for key in _TRAINING_KEYS if key in data}
    extra = from_json(params.pop(EXTRA_CONFIG_KEY, {}))
    if not isinstance(extra, dict):
        where = f"{path}, params, {EXTRA_CONFIG_KEY}"
        raise CheckpointError("a parameter has the wrong type", where=where, found=extra, expected="a dict")
    refuse_unsupported(extra, f"{path}, params, {EXTRA_CONFIG_KEY}")
    dictionary = _dictionary(data, path)
    is_encoder_decoder = "model" not in data
    if is_encoder_decoder:
        halves = {half: _weights(data[half], path) for half in HALVES}
        config = _config(params, halves["decoder"], extra, True, path)
        for half in halves.values():
            _check_sizes(config, dictionary, half, path)
        weights = {f"{half}.{name}": tensor for half, tensors in halves.items() for name, tensor in tensors.items()}
    else:
        weights = _weights(data["model"], path)
        config = _config(params, weights, extra, causal, path)
        _check_sizes(config, dictionary, weights, path)
    has_optimiser = "model_optimizer" in data
    return Checkpoint(
        source=path,
        config=config,
        tensors=match_tensors(ORIGINAL, weights, config, where=path, is_encoder_decoder=is_encoder_decoder),
        is_encoder_decoder=is_encoder_decoder,
        words=dictionary.words,
        provenance=Provenance(
            extra_config=extra,
            record=OriginalRecord(params=params, counts=dictionary.counts, training=training),
        ),
        notes=("the state of the optimiser is omitted",) if has_optimiser else (),
    )


def read_dictionary(path: Path) -> OriginalDictionary:
    """Read the vocabulary of an original checkpoint without checking its weights.

    Raises:
        CheckpointError: As for ``read_original``.
    """
    return _dictionary(_load(path), path)


def _load(path: Path) -> dict[str, Any]:
    data = load_pickle(path)
    if not isinstance(data, dict):
        raise _not_a_model(path, f"an object of type {type(data).__name__}")
    networks = ("model",) if "model" in data or not any(half in data for half in HALVES) else HALVES
    required = (*networks, "params", "dico_id2word", "dico_counts")
    if missing := [key for key in required if not isinstance(data.get(key), dict)]:
        keys = ", ".join(sorted(map(str, data))[:8])
        raise _not_a_model(path, f"no dict under {', '.join(missing)}; the file has: {keys or 'nothing'}")
    # Check the size first, because inspecting or showing a huge value could exhaust the memory.
    check_plain(
        [data.get(key) for key in ("params", *_TRAINING_KEYS)], f"{path}, params and {', '.join(_TRAINING_KEYS)}"
    )
    _refuse_arrays(data["params"], f"{path}, params")
    encoder_only = data["params"].get("encoder_only", networks == ("model",))
    if bool(encoder_only) != (networks == ("model",)):
        raise _not_a_model(path, f"{' and '.join(networks)} with encoder_only = {encoder_only} in params")
    refuse_unsupported(data["params"], f"{path}, params")
    if any(".values.weight" in str(key) for network in networks for key in data[network]):
        raise _not_a_model(path, "a model with product-key memory layers")
    return data


def _refuse_arrays(params: Mapping[str, Any], where: str) -> None:
    """Refuse arrays among the parameters that we read, because ``bool`` of an array of several values raises."""
    names = ("encoder_only", "clm_steps", "mlm_steps", *_SAME_NAME)
    if wrong := [name for name in names if isinstance(params.get(name), np.ndarray | Tensor)]:
        raise CheckpointError("parameters of the model are arrays", where=where, found=", ".join(wrong))


def _not_a_model(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "the file is not a checkpoint of the original",
        where=path,
        found=found,
        expected="a checkpoint with model (or encoder and decoder), params, dico_id2word, dico_word2id and "
        "dico_counts, of a model without memory layers",
        remedy="give a best-*.pth, periodic-*.pth or checkpoint.pth of a training run",
    )


def _weights(state_dict: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state dict without the prefix of multi-GPU runs."""
    weights: dict[str, Tensor] = {}
    doubled = []
    for key, tensor in state_dict.items():
        name = str(key).removeprefix(_PREFIX)
        if name in weights:
            doubled.append(name)
        weights[name] = tensor
    if doubled:
        raise CheckpointError(
            "tensors occur both with and without the prefix 'module.'",
            where=path,
            found=", ".join(doubled[:12]),
            expected="each tensor once",
        )
    return weights


def _config(
    params: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    extra: Mapping[str, Any],
    causal: bool | None,
    path: Path,
) -> XLMConfig:
    missing = [key for key in _REQUIRED if key not in params]
    if missing:
        raise CheckpointError(
            "parameters of the model are missing", where=f"{path}, params", found=f"no {', '.join(missing)}"
        )
    fields = {key: params[key] for key in _SAME_NAME if key in params}
    fields |= {ours: params[theirs] for theirs, ours in _TOKEN_IDS.items() if theirs in params}
    positions = weights.get("position_embeddings.weight")
    if isinstance(positions, Tensor) and positions.dim() == 2:
        fields["max_position_embeddings"] = positions.shape[0]
    with config_errors(f"{path}, params"):
        if params.get("asm"):
            fields["asm_cutoffs"] = tuple(params.get("asm_cutoffs", ()))
        # The original has no default language. lang_id is the default in generate() of transformers, whose tokenizer
        # applies English rules.
        fields["lang_id"] = (params.get("lang2id") or {}).get("en", 0)
        fields |= {key: extra[key] for key in UNNAMED_FIELDS if key in extra}
        if causal is not None:
            fields["causal"] = causal
        elif "causal" not in fields:
            # A run with CLM steps trains a causal model, even if it has other objectives too.
            fields["causal"] = bool(params.get("clm_steps")) or not params.get("mlm_steps")
        return XLMConfig(vocab_size=params["n_words"], **fields)


def _dictionary(data: Mapping[str, Any], path: Path) -> OriginalDictionary:
    id2word, counts = data["dico_id2word"], data["dico_counts"]
    where = f"{path}, dico_id2word"
    if set(id2word) != set(range(len(id2word))) or not all(isinstance(word, str) for word in id2word.values()):
        raise CheckpointError(
            "the dictionary's ids have gaps", where=where, found=f"{len(id2word)} words", expected="ids 0, 1, 2, …"
        )
    words = tuple(id2word[index] for index in range(len(id2word)))
    if words[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
        raise CheckpointError(
            "the dictionary does not begin with the special words",
            where=where,
            found=" ".join(words[: len(SPECIAL_TOKENS)]),
            expected=" ".join(SPECIAL_TOKENS),
        )
    ids = {word: index for index, word in enumerate(words)}
    word2id = data.get("dico_word2id", ids)
    has_ids = isinstance(word2id, dict) and all(isinstance(index, int) for index in word2id.values())
    if len(ids) != len(words) or not has_ids or word2id != ids:
        raise CheckpointError(
            "the words and ids of the dictionary do not correspond one to one",
            where=f"{path}, dico_id2word and dico_word2id",
            found=f"{len(words)} ids, {len(ids)} words, "
            f"{len(word2id) if has_ids else 'non-integer'} entries in dico_word2id",
            expected="the same words in both keys, each once",
        )
    numbers = [counts.get(word) for word in words]
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 63 for count in numbers):
        raise CheckpointError(
            "the dictionary's counts do not match its words",
            where=f"{path}, dico_counts",
            found=f"{len(counts)} counts for {len(words)} words",
            expected="an integer of at least 0 for each word",
        )
    lang2id = data["params"].get("lang2id")
    return OriginalDictionary(words, tuple(numbers), dict(lang2id) if isinstance(lang2id, dict) else {})


def _check_sizes(config: XLMConfig, dictionary: OriginalDictionary, weights: Mapping[str, Tensor], path: Path) -> None:
    rows = weights.get("embeddings.weight")
    sizes = {
        "words in dico_id2word": len(dictionary.words),
        "n_words in params": config.vocab_size,
        "rows of embeddings.weight": rows.shape[0] if isinstance(rows, Tensor) and rows.dim() else config.vocab_size,
    }
    if len(set(sizes.values())) != 1:
        raise CheckpointError(
            "the vocabulary and the model differ in size",
            where=path,
            found=", ".join(f"{size} {what}" for what, size in sizes.items()),
            expected="three equal numbers",
            remedy="use the dictionary and the weights of one training run",
        )
