"""Read and write ``config.json`` of the ``transformers`` layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from xlm._version import __version__
from xlm.checkpoint import json_codec
from xlm.checkpoint.checkpoint import OriginalRecord, Provenance, config_errors, refuse_unsupported
from xlm.errors import CheckpointError, VocabularyError, warn_caller
from xlm.model.config import XLMConfig
from xlm.tokenizer.text_files import read_json_object

CONFIG_FILE = "config.json"
OUR_KEY = "xlm"
"""Key of ``config.json`` for data that only this library reads."""

# Our names of token ids, and the names of the same ids in XLM of transformers. A config.json may use either name.
_INDEX_NAMES = {
    "bos_token_id": "bos_index",
    "eos_token_id": "eos_index",
    "pad_token_id": "pad_index",
    "unk_token_id": "unk_index",
    "mask_token_id": "mask_index",
}
_PLAIN = tuple(f.name for f in fields(XLMConfig) if f.name not in (*_INDEX_NAMES, "lang2id", "attn_implementation"))
# Keys that repeat other keys in another form. They are always computed from our configuration, never copied from the
# file that was read.
_DERIVED = {
    *("id2lang", "tie_word_embeddings", "model_type", "architectures", "is_encoder", "is_encoder_decoder"),
    *("torch_dtype", "dtype", "attn_implementation"),
}
ENCODER_DECODER = "xlm-encoder-decoder"
"""``model_type`` of an encoder-decoder. ``transformers`` does not know it, so it refuses such a directory; for the type
``xlm`` it would make a language model with random weights."""

_FLAUBERT = "flaubert"
"""``model_type`` of FlauBERT, whose network is that of a bidirectional XLM unless a setting says otherwise."""


def read_config(directory: Path, *, causal: bool | None = None) -> tuple[XLMConfig, Provenance, bool]:
    """Return the architecture in ``config.json``, its other contents, and whether the model is an encoder-decoder.

    Args:
        directory: A directory in the ``transformers`` layout.
        causal: Whether attention is causal; ``None`` means as in the file.

    Raises:
        CheckpointError: ``config.json`` is missing or invalid, or describes another kind of model.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            "the directory holds no model",
            where=directory,
            found=f"no {CONFIG_FILE}; {listing(directory)}",
            expected=f"{CONFIG_FILE} and weights, in the transformers layout",
            remedy="pass the directory that xlm convert or save_pretrained wrote, or a .pth checkpoint of the original",
        )
    data = read_json(path)
    refuse_unsupported(data, path)
    is_encoder_decoder = data.get("model_type") == ENCODER_DECODER
    is_known = is_encoder_decoder or data.get("model_type", "xlm") in ("xlm", _FLAUBERT)
    if not is_known or not data.get("is_encoder", True):
        raise CheckpointError(
            "the directory holds another kind of model",
            where=path,
            found=f"model_type {data.get('model_type')!r}, is_encoder {data.get('is_encoder')!r}",
            expected=f"model_type 'xlm' or {_FLAUBERT!r}, is_encoder true; or model_type {ENCODER_DECODER!r}",
        )
    ours = data.get(OUR_KEY, {})
    if not isinstance(ours, dict):
        raise CheckpointError("the key xlm is not an object", where=path, found=type(ours).__name__)
    flags = {name: data.get(name, True) for name in ("share_inout_emb", "tie_word_embeddings", "asm", "causal")}
    flags[f"{OUR_KEY}.causal"] = ours.get("causal", True)
    if wrong := [f"{name}: {value!r}" for name, value in flags.items() if not isinstance(value, bool)]:
        raise CheckpointError(
            "values in the configuration are neither true nor false",
            where=path,
            found=", ".join(wrong),
            expected="true or false",
        )
    values = _values(data)
    required = [f.name for f in fields(XLMConfig) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise CheckpointError(
            "keys of the configuration are missing",
            where=path,
            found=f"no {', '.join(missing)}",
            expected="the configuration of an XLM model",
        )
    values["causal"] = is_encoder_decoder or _causal(data, ours, causal, path)
    with config_errors(path):
        config = XLMConfig(**values)
    known = {*_PLAIN, "lang2id", "causal", OUR_KEY, *_INDEX_NAMES, *_INDEX_NAMES.values(), "n_words", *_DERIVED}
    extra = {key: value for key, value in data.items() if key not in known}
    json_codec.check_plain(extra, path)
    return config, Provenance(extra_config=extra, record=_record(ours, config, path)), is_encoder_decoder


def listing(directory: Path) -> str:
    """Return the names of the first few files in a directory, for a message."""
    return ", ".join(sorted(entry.name for entry in directory.iterdir())[:12]) or "nothing in it"


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file of a checkpoint contains.

    Raises:
        CheckpointError: The file is missing, unreadable, not JSON, or not an object.
    """
    try:
        return read_json_object(path)
    except VocabularyError as error:
        raise CheckpointError(
            error.what, where=error.where, found=error.found, expected=error.expected, remedy=error.remedy
        ) from error


def _values(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of our configuration that the file contains."""
    values = {key: data[key] for key in _PLAIN if key in data}
    if "vocab_size" not in values and "n_words" in data:
        values["vocab_size"] = data["n_words"]
    for ours, theirs in _INDEX_NAMES.items():
        # The id of the mask token is mask_index. In the published files, mask_token_id is 0, which is the id of <s>.
        names = (theirs,) if ours == "mask_token_id" else (theirs, ours)
        for name in names:
            if data.get(name) is not None:
                values[ours] = data[name]
                break
    if data.get("lang2id") is not None:
        values["lang2id"] = data["lang2id"]
    # An adaptive softmax is never tied, so its file has tie_word_embeddings = false for either value of
    # share_inout_emb. With asm, tie_word_embeddings is therefore ignored.
    tied = data.get("tie_word_embeddings", True) or data.get("asm", False)
    values["share_inout_emb"] = bool(data.get("share_inout_emb", True) and tied)
    return values


def _causal(data: Mapping[str, Any], ours: Mapping[str, Any], override: bool | None, path: Path) -> bool:
    if override is not None:
        return override
    if "causal" in ours:
        # We wrote both keys, so a plain one of another value was set later, by hand or by transformers.
        return bool(data.get("causal", ours["causal"]))
    if data.get("model_type") == _FLAUBERT:
        return bool(data.get("causal", False))
    if not data.get("causal", False):
        warn_caller(
            f"{path} says causal: false, but so do the published configurations of causal models; the model is "
            "treated as causal; for a masked language model, pass causal=False"
        )
    return True


def _record(ours: Mapping[str, Any], config: XLMConfig, path: Path) -> OriginalRecord | None:
    kept = ours.get("original")
    if kept is None:
        return None
    try:
        record = OriginalRecord(
            params=json_codec.from_json(kept["params"]),
            # Drop the counts of words that resize_token_embeddings removed, which are always the last words.
            counts=tuple(json_codec.from_json(kept["counts"]).tolist())[: config.vocab_size],
            training=json_codec.from_json(kept["training"]),
        )
        if not isinstance(record.params, dict) or not isinstance(record.training, dict):
            raise TypeError("params or training is not an object")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "invalid data of the original checkpoint",
            where=f"{path}, key xlm.original",
            found=f"{type(error).__name__}: {error}",
            remedy="convert the original checkpoint again, or remove the key",
        ) from error
    return record


def config_to_json(
    config: XLMConfig,
    provenance: Provenance,
    *,
    dtype: str,
    is_encoder_decoder: bool = False,
    has_head: bool = True,
) -> dict[str, Any]:
    """Return the contents of ``config.json``, as ``transformers`` reads it.

    Args:
        config: The architecture; its keys override those of ``provenance``.
        provenance: Further contents of the file.
        dtype: Type of the weights, for instance ``"float32"``.
        is_encoder_decoder: Whether the model is an encoder-decoder.
        has_head: Whether the model is a language model, not an ``XLMModel``.
    """
    one_network = "XLMWithLMHeadModel" if has_head else "XLMModel"
    theirs: dict[str, Any] = {name: getattr(config, name) for name in _PLAIN}
    theirs["asm_cutoffs"] = list(config.asm_cutoffs)
    if not config.asm:
        del theirs["asm_cutoffs"], theirs["asm_div_value"]
    if config.embed_init_std is None:
        theirs["embed_init_std"] = config.emb_dim**-0.5
    for ours, name in _INDEX_NAMES.items():
        theirs[name] = theirs[ours] = getattr(config, ours)
    theirs |= {
        "architectures": ["XLMEncoderDecoderModel" if is_encoder_decoder else one_network],
        "model_type": ENCODER_DECODER if is_encoder_decoder else "xlm",
        **({"is_encoder_decoder": True} if is_encoder_decoder else {"is_encoder": True}),
        "dtype": dtype,
        "tie_word_embeddings": config.tied,
        "lang2id": dict(config.lang2id),
        "id2lang": {str(index): name for index, name in config.id2lang.items()},
    }
    our_part: dict[str, Any] = {"version": __version__, "causal": config.causal}
    if (record := provenance.record) is not None:
        our_part["original"] = {
            "params": json_codec.to_json(dict(record.params)),
            "counts": json_codec.pack_integers(record.counts),
            "training": json_codec.to_json(dict(record.training)),
        }
    return {**dict(sorted({**provenance.extra_config, **theirs}.items())), OUR_KEY: our_part}
