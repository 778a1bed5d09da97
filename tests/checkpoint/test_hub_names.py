"""Which names are ids on the hub, and what is requested for them.

Oracles: the directory with the fake hub's files, opened as a directory; the requests that the fake hub recorded;
huggingface_hub's own rule for ids.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoint.fake_hub import FakeHub
from tests.checkpoint.hub_files import ID, LEGACY, MODEL_FILES, TOKENIZER_FILES, same_weights
from tests.cli.conftest import Invoke, invoke  # noqa: F401 (a fixture)
from tests.test_snippet import SNIPPET
from tests.tokenizer.small import TEXT
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.hub import as_hub_model
from xlm.errors import CheckpointError, DependencyError, InputError, XLMError


def test_a_model_and_its_tokenizer(hub: FakeHub, saved: Path) -> None:
    model = XLMWithLMHeadModel.from_pretrained(ID)
    assert same_weights(model, saved)
    assert hub.asked() == [f"/api/models/{ID}/revision/main", *MODEL_FILES]
    tokenizer = XLMTokenizer.from_pretrained(ID)
    assert tokenizer == XLMTokenizer.from_pretrained(saved)
    assert tokenizer.preset == "transformers"
    assert hub.asked() == [f"/api/models/{ID}/revision/main", *TOKENIZER_FILES[1:]]


def test_what_is_in_the_cache_is_not_fetched_again(hub: FakeHub) -> None:
    XLMWithLMHeadModel.from_pretrained(ID)
    hub.requests.clear()
    XLMWithLMHeadModel.from_pretrained(ID)
    assert [(request.method, request.path) for request in hub.requests] == [("GET", f"/api/models/{ID}/revision/main")]


def test_a_directory_and_a_file_come_first(
    hub: FakeHub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    (tmp_path / ID).symlink_to(saved)
    XLMWithLMHeadModel.from_pretrained(ID, revision="v1")
    (tmp_path / "file").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="file"):
        XLMWithLMHeadModel.from_pretrained("file")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name", ["", "/no/model", "./model", "../model", "a/b/c", "a.pth", "a/b.pth", "~/x", "a\\b", "-a"]
)
def test_paths_never_go_to_the_hub(name: str, hub: FakeHub) -> None:
    for kind in (XLMWithLMHeadModel, XLMTokenizer):
        with pytest.raises(XLMError):
            kind.from_pretrained(name)
    assert hub.requests == []


@given(st.text("aZ9_./@~-\\ é", max_size=12))
def test_what_is_taken_for_an_id_is_one(name: str) -> None:
    try:
        found = as_hub_model(name)
    except InputError:
        assert "@" in name
        return
    if found is not None:
        validate_repo_id(found.names[0])
        assert ".." not in found.revision
    else:
        with pytest.raises(HFValidationError):
            validate_repo_id(name if not name.endswith(".pth") else "--")


def test_the_old_name_without_owner(hub: FakeHub, saved: Path) -> None:
    hub.repositories[f"FacebookAI/{LEGACY}"] = hub.repositories[ID]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(LEGACY), saved)
    assert hub.asked()[0] == f"/api/models/FacebookAI/{LEGACY}/revision/main"
    assert same_weights(XLMWithLMHeadModel.from_pretrained(f"FacebookAI/{LEGACY}", local_files_only=True), saved)


def test_the_model_cards_snippet(hub: FakeHub, saved: Path) -> None:
    hub.repositories[f"FacebookAI/{LEGACY}"] = hub.repositories[ID]
    names: dict[str, Any] = {}
    exec(SNIPPET, names)
    expected = XLMWithLMHeadModel.from_pretrained(saved)(names["input_ids"], langs="en").logits
    assert torch.equal(names["outputs"].logits, expected)


@pytest.mark.parametrize("name", [LEGACY, f"FacebookAI/{LEGACY}"])
def test_a_cache_filled_under_the_old_name_serves(name: str, hub: FakeHub, saved: Path) -> None:
    """As transformers fills it: the hub redirects the old name to the new one."""
    hub.repositories[f"FacebookAI/{LEGACY}"] = hub.repositories[ID]
    hub.moved[LEGACY] = f"FacebookAI/{LEGACY}"
    for file in MODEL_FILES:
        huggingface_hub.hf_hub_download(LEGACY, file)
    hub.asked()
    assert same_weights(XLMWithLMHeadModel.from_pretrained(name, local_files_only=True), saved)
    assert hub.asked() == []
    assert same_weights(XLMWithLMHeadModel.from_pretrained(name), saved)
    assert hub.asked() == [f"/api/models/FacebookAI/{LEGACY}/revision/main"]


def test_a_cache_with_a_part_under_the_old_name(hub: FakeHub, saved: Path) -> None:
    hub.repositories[f"FacebookAI/{LEGACY}"] = hub.repositories[ID]
    hub.moved[LEGACY] = f"FacebookAI/{LEGACY}"
    huggingface_hub.hf_hub_download(LEGACY, "config.json")
    assert same_weights(XLMWithLMHeadModel.from_pretrained(LEGACY), saved)
    hub.asked()
    assert same_weights(XLMWithLMHeadModel.from_pretrained(LEGACY), saved)
    assert hub.asked() == [f"/api/models/FacebookAI/{LEGACY}/revision/main"]


def test_a_repository_that_moved(hub: FakeHub, saved: Path) -> None:
    hub.moved["someone/before"] = ID
    assert same_weights(XLMWithLMHeadModel.from_pretrained("someone/before"), saved)
    assert same_weights(XLMWithLMHeadModel.from_pretrained("someone/before", local_files_only=True), saved)


def test_convert_takes_an_id(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    report = convert(ID, tmp_path / "again")
    assert same_weights(XLMWithLMHeadModel.from_pretrained(tmp_path / "again"), saved)
    assert "vocab.json" in report.files
    assert XLMTokenizer.from_pretrained(tmp_path / "again") == XLMTokenizer.from_pretrained(saved)


@pytest.mark.parametrize("command", ["tokenize", "score"])
def test_commands_take_an_id(command: str, hub: FakeHub, saved: Path, invoke: Invoke) -> None:  # noqa: F811
    results = [invoke(command, model, "--lang", "en", input=TEXT) for model in (f"{ID}@main", saved)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    assert results[0].stdout == results[1].stdout
    hub.repositories.clear()
    failed = invoke(command, "no/model", "--lang", "en", input=TEXT)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: No such model")
    assert "Traceback" not in failed.stderr


def test_the_library_is_imported_for_ids_alone(saved: Path) -> None:
    program = (
        "import sys, xlm; from xlm import XLMTokenizer; import xlm.cli.score, xlm.cli.convert\n"
        f"XLMTokenizer.from_pretrained({str(saved)!r})\n"
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match="pip install huggingface_hub"):
        XLMTokenizer.from_pretrained(ID)
