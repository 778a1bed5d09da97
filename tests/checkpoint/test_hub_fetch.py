"""Which files of a repository are fetched, and of which commit.

Oracles: the directory with the fake hub's files; the requests that the fake hub recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.fake_hub import FakeHub, Repository, commit_of, repository
from tests.checkpoint.hub_files import (
    ID,
    Files,
    both,
    both_in_shards,
    one_pickle,
    pickled_shards,
    safetensors_shards,
    same_weights,
    with_dropout,
)
from xlm import XLMTokenizer, XLMWarning, XLMWithLMHeadModel
from xlm.errors import InputError, XLMError


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        (
            safetensors_shards,
            [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)] + ["model.safetensors.index.json"],
        ),
        (one_pickle, ["pytorch_model.bin"]),
        (pickled_shards, [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)] + ["pytorch_model.bin.index.json"]),
        (both, ["model.safetensors"]),
        (both_in_shards, [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)] + ["model.safetensors.index.json"]),
    ],
)
def test_forms_of_weights(
    form: Callable[[Files], Files], weights: list[str], files: Files, hub: FakeHub, saved: Path
) -> None:
    hub.repositories[ID] = repository(form(files))
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert hub.asked() == [f"/api/models/{ID}/revision/main", "config.json", *weights]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID, local_files_only=True), saved)


def test_the_published_causal_false_is_warned_of(hub: FakeHub, files: Files) -> None:
    values = json.loads(files["config.json"])
    del values["xlm"]
    hub.repositories[ID] = repository({**files, "config.json": json.dumps({**values, "causal": False}).encode()})
    with pytest.warns(XLMWarning, match="treated as causal") as caught:
        assert XLMWithLMHeadModel.from_pretrained(ID).config.causal
    assert caught[0].filename == __file__


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", commit_of("v1")])
@pytest.mark.parametrize("in_the_name", [False, True])
def test_revisions(revision: str, in_the_name: bool, hub: FakeHub, files: Files) -> None:
    hub.repositories[ID] = repository(files, v1=with_dropout(files, 0.25))
    hub.repositories[ID].refs["refs/pr/1"] = commit_of("v1")
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.1
    name, options = (f"{ID}@{revision}", {}) if in_the_name else (ID, {"revision": revision})
    for _ in range(2):
        assert XLMWithLMHeadModel.from_pretrained(name, **options).config.dropout == 0.25  # type: ignore[arg-type]
    hub.stop()
    offline = XLMWithLMHeadModel.from_pretrained(name, local_files_only=True, **options)  # type: ignore[arg-type]
    assert offline.config.dropout == 0.25


def test_a_branch_that_moves_on(hub: FakeHub, files: Files) -> None:
    XLMWithLMHeadModel.from_pretrained(ID)
    hub.asked()
    hub.repositories[ID] = Repository(
        commits={commit_of("new"): with_dropout(files, 0.25), commit_of("main"): files}, refs={"main": commit_of("new")}
    )
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.25
    assert hub.asked() == [f"/api/models/{ID}/revision/main", "config.json"]  # the weights are the same
    assert XLMWithLMHeadModel.from_pretrained(ID, local_files_only=True).config.dropout == 0.25
    assert XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main")).config.dropout == 0.1
    assert hub.asked() == []  # the hub is not asked for a commit that the cache holds


@pytest.mark.parametrize("revision", ["../../x", "a b", "-x", "", "a\nb"])
def test_what_cannot_be_a_revision(revision: str, hub: FakeHub) -> None:
    with pytest.raises(InputError, match="revision"):
        XLMWithLMHeadModel.from_pretrained(f"{ID}@{revision}")
    with pytest.raises(InputError, match="Two revisions"):
        XLMWithLMHeadModel.from_pretrained(f"{ID}@v1", revision="v2")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("taken_out", "kind", "words"),
    [
        (["config.json"], XLMWithLMHeadModel, ["holds no model", "config.json"]),
        (["vocab.json"], XLMTokenizer, ["holds no tokenizer", "vocab.json"]),
        (["merges.txt"], XLMTokenizer, ["does not hold a tokenizer", "merges.txt"]),
        (
            ["model.safetensors"],
            XLMWithLMHeadModel,
            ["no weights in a supported format", "tf_model.h5", "transformers"],
        ),
    ],
)
def test_incomplete_repositories(taken_out: list[str], kind: Any, words: list[str], hub: FakeHub, files: Files) -> None:
    hub.repositories[ID] = repository({name: content for name, content in files.items() if name not in taken_out})
    with pytest.raises(XLMError) as error:
        kind.from_pretrained(ID)
    for word in words:
        assert word in str(error.value)
