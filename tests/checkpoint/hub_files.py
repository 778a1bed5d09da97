"""The files of a small model in the formats that repositories on the hub use."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load, save

from tests.checkpoint.fake_hub import FakeHub
from xlm import XLMWithLMHeadModel

ID = "someone/small"
LEGACY = "xlm-clm-ende-1024"
MODEL_FILES = ["config.json", "model.safetensors"]
TOKENIZER_FILES = ["config.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
Files = dict[str, bytes]


def same_weights(found: XLMWithLMHeadModel, directory: Path) -> bool:
    expected = XLMWithLMHeadModel.from_pretrained(directory).state_dict()
    state = found.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def cached_files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("models--*/snapshots/*/*"))


def forget_connections() -> None:
    from huggingface_hub.utils import _http

    for name in ("close_session", "reset_sessions"):  # its name after and before version 1
        getattr(_http, name, lambda: None)()


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def in_shards(files: Files, name: Callable[[int], str], write: Callable[[dict[str, torch.Tensor]], bytes]) -> Files:
    tensors = load(files["model.safetensors"])
    names = sorted(tensors)
    parts = [names[::2], names[1::2]]
    stem = name(0)
    result = {file: content for file, content in files.items() if file != "model.safetensors"}
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        result[name(number)] = write({tensor: tensors[tensor] for tensor in part})
        weight_map |= dict.fromkeys(part, name(number))
    result[f"{stem}.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return result


def safetensors_shards(files: Files) -> Files:
    return in_shards(files, lambda n: f"model-0000{n}-of-00002.safetensors" if n else "model.safetensors", save)


def pickled_shards(files: Files) -> Files:
    return in_shards(files, lambda n: f"pytorch_model-0000{n}-of-00002.bin" if n else "pytorch_model.bin", pickled)


def one_pickle(files: Files) -> Files:
    result = {**files, "pytorch_model.bin": pickled(load(files["model.safetensors"]))}
    del result["model.safetensors"]
    return result


def both(files: Files) -> Files:
    return {**one_pickle(files), **files}


def both_in_shards(files: Files) -> Files:
    return {**pickled_shards(files), **safetensors_shards(files)}


def with_dropout(files: Files, value: float) -> Files:
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), "dropout": value}).encode()}


def spoilt(content: bytes) -> bytes:
    """Flip one bit; in weights it lies in a tensor, where no reader would notice."""
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


def private(hub: FakeHub) -> None:
    hub.repositories[ID].token = "hf_secret"
