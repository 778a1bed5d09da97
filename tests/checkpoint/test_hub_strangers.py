"""Hostile repositories and headers. Oracle: no file outside the cache is made, changed or executed."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import get_session
from safetensors.torch import load, save

from tests.checkpoint.fake_hub import FakeHub, commit_of, repository
from tests.checkpoint.hub_files import (
    ID,
    Files,
    cached_files,
    one_pickle,
    pickled,
    pickled_shards,
    safetensors_shards,
    with_dropout,
)
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.errors import CheckpointError, HubError


def test_a_text_file_that_is_far_too_large(
    hub: FakeHub, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("xlm.checkpoint.hub_download._LARGEST_TEXT", len(files["config.json"]) - 1)
    with pytest.raises(HubError, match="far too large"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert cached_files(tmp_path / "cache") == []


def test_names_that_move_the_cursor(hub: FakeHub) -> None:
    hub.repositories[ID] = repository({"\x1b[2J\n": b"", "README.md": b"", "a" * 1000: b""})
    with pytest.raises(HubError, match="holds no model") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert str(error.value.found).isprintable()
    assert "README.md" in str(error.value.found)
    assert len(str(error.value.found)) <= 300


def tag_of(outside: Path, cache: Path) -> str:
    """Return a tag that leads from the blobs to a path; relative, as the library strips a leading slash."""
    return f'"{os.path.relpath(outside, cache / "models--someone--small" / "blobs")}"'


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_a_tag_that_points_elsewhere(header: str, there: bool, hub: FakeHub, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if there:
        outside.write_text("mine")
    hub.faults.headers[header] = tag_of(outside, tmp_path / "cache")
    with pytest.raises(HubError, match="answered is not the hub"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert (outside.read_text() if outside.exists() else None) == ("mine" if there else None)


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_tag_that_points_elsewhere_on_a_connection_made_anew(
    refused: int, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library tries a failed request again, from version 1 in a new session."""
    hub.faults.headers["ETag"] = tag_of(tmp_path / "outside", tmp_path / "cache")
    session = get_session()
    http: Any = importlib.import_module(type(session).__module__.partition(".")[0])
    no_connection = getattr(http, "ConnectError", None) or http.ConnectionError  # httpx or requests
    really, tried = type(session).request, []

    def request(session: Any, method: str, url: Any, **options: Any) -> Any:
        if method == "HEAD":
            tried.append(url)
            if len(tried) <= refused:
                raise no_connection("refused")
        return really(session, method, url, **options)

    monkeypatch.setattr(type(session), "request", request)
    with pytest.raises(HubError):
        XLMTokenizer.from_pretrained(ID)
    assert tried
    assert not (tmp_path / "outside").exists()


def test_a_link_out_of_the_cache_is_not_followed(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    """A wrong file is removed from the cache, but not a user's file that the cache links to."""
    XLMTokenizer.from_pretrained(ID)
    mine = tmp_path / "mine"
    mine.write_text("my own")
    link = next((tmp_path / "cache").glob("models--*/snapshots/*/config.json"))
    content = link.resolve()
    link.unlink()
    link.symlink_to(mine)
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
    assert mine.read_text() == "my own"
    content.unlink()
    content.symlink_to(mine)
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
    assert mine.read_text() == "my own"


def test_a_commit_that_points_elsewhere(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.unlisted_404.add("model.safetensors")
    hub.faults.headers["X-Repo-Commit"] = str(tmp_path / "outside")
    with pytest.raises(HubError, match="does not have a file that it lists"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert not (tmp_path / "outside").exists()


def test_a_commit_that_stands_for_another(hub: FakeHub, files: Files) -> None:
    hub.repositories[ID] = repository(files, later=with_dropout(files, 0.25))
    hub.repositories[ID].refs[commit_of("main")] = commit_of("later")
    with pytest.raises(HubError, match="answered is not the hub"):
        XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main"))


@pytest.mark.parametrize("tag", ['W/"*"', '"*-5"', "*"])
def test_tags_of_other_servers(tag: str, hub: FakeHub, saved: Path) -> None:
    hub.faults.headers["ETag"] = tag
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)


@pytest.mark.parametrize(
    "shard",
    [
        "../../../outside.safetensors",
        "/etc/passwd.safetensors",
        "..",
        ".safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "c:b.safetensors",
        "a\0.safetensors",
        "*.safetensors",
        "pytorch_model.bin",
        "config.json",
        "\x1b[2J.safetensors",
    ],
)
def test_an_index_that_points_elsewhere(shard: str, hub: FakeHub, files: Files) -> None:
    hostile = safetensors_shards(files)
    index = json.loads(hostile["model.safetensors.index.json"])
    index["weight_map"]["transformer.embeddings.weight"] = shard
    hostile["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories[ID] = repository(hostile)
    with pytest.raises(CheckpointError, match="names a file that is not beside it") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert type(error.value) is CheckpointError
    assert error.value.__cause__ is None
    assert "\x1b" not in str(error.value)
    assert hub.asked() == [f"/api/models/{ID}/revision/main", "model.safetensors.index.json"]


def missing_shard(files: Files) -> None:
    del files["model-00002-of-00002.safetensors"]


def tensor_twice(files: Files) -> None:

    first, second = (load(files[f"model-0000{n}-of-00002.safetensors"]) for n in (1, 2))
    files["model-00002-of-00002.safetensors"] = save({**second, next(iter(first)): next(iter(first.values()))})


def key_twice(files: Files) -> None:
    text = files["model.safetensors.index.json"].decode()
    files["model.safetensors.index.json"] = text.replace(
        '"weight_map": {', '"weight_map": {"head": "a.safetensors", "head": "b.safetensors", '
    ).encode()


def no_map(files: Files) -> None:
    files["model.safetensors.index.json"] = b'{"weight_map": ["model-00001-of-00002.safetensors"]}'


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing_shard, ["lacks shards", "model-00002-of-00002.safetensors"]),
        (tensor_twice, ["shards do not match the index", "extra"]),
        (key_twice, ["twice", "'head'"]),
        (no_map, ["names no shards"]),
    ],
)
def test_other_wrong_indexes(spoil: Callable[[Files], None], words: list[str], hub: FakeHub, files: Files) -> None:
    hostile = safetensors_shards(files)
    spoil(hostile)
    hub.repositories[ID] = repository(hostile)
    with pytest.raises(CheckpointError) as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert "not the hub" not in str(error.value)
    for word in words:
        assert word in str(error.value)


class Trap:
    """Create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", [one_pickle, pickled_shards])
def test_code_in_a_pickle_is_not_run(
    form: Callable[[Files], Files], hub: FakeHub, files: Files, tmp_path: Path
) -> None:
    hostile = form(files)
    for name in hostile:
        if name.endswith(".bin"):
            hostile[name] = pickled({"transformer.embeddings.weight": Trap(tmp_path / "sprung")})
    hub.repositories[ID] = repository(hostile)
    with pytest.raises(CheckpointError, match="asks for code to be run is always refused"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert not (tmp_path / "sprung").exists()
    torch.load(next((tmp_path / "cache").rglob("*.bin")), weights_only=False)  # the trap does spring
    assert (tmp_path / "sprung").exists()
