"""Models of the hub.

Oracles: the directory that the files of the fake hub were read from, opened as a directory; the fake hub's record of
what it was asked; the hub library's own rule of what an id is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.checkpoint.fake_hub import FakeHub, Repository, commit_of, repository
from tests.cli.conftest import Invoke, invoke  # noqa: F401 (a fixture)
from tests.test_snippet import SNIPPET
from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm import XLMConfig, XLMTokenizer, XLMWarning, XLMWithLMHeadModel
from xlm.checkpoint.convert import convert
from xlm.checkpoint.hub import as_hub_model
from xlm.checkpoint.hub_errors import explain
from xlm.errors import CheckpointError, DependencyError, HubError, InputError, XLMError

ID = "someone/small"
MODEL_FILES = ["config.json", "model.safetensors"]
TOKENIZER_FILES = ["config.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with its tokenizer."""
    directory = tmp_path_factory.mktemp("saved") / "model"
    torch.manual_seed(0)
    config = XLMConfig(
        vocab_size=len(VOCABULARY), emb_dim=16, n_layers=2, n_heads=2, n_langs=2, lang2id={"de": 0, "en": 1}
    )
    XLMWithLMHeadModel(config).save_pretrained(directory)
    XLMTokenizer(VOCABULARY, MERGES, lang2id={"de": 0, "en": 1}).save_pretrained(directory)
    return directory


@pytest.fixture
def files(saved: Path) -> Files:
    """The files of the directory, and some that nothing here reads."""
    return {
        **{path.name: path.read_bytes() for path in saved.iterdir()},
        "README.md": b"# A model",
        "tf_model.h5": b"weights of another framework",
        "tokenizer.json": b"{}",
    }


@pytest.fixture
def hub(files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with one model, which the library takes for the hub of the world; its cache is empty."""
    with FakeHub() as hub:
        hub.repositories[ID] = repository(files)
        # The library reads its settings from the environment when it is imported.
        settings: dict[str, Any] = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_ETAG_TIMEOUT": 0.5,
            "HF_HUB_DOWNLOAD_TIMEOUT": 0.5,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's tries
        forget_connections()
        yield hub
        forget_connections()


def forget_connections() -> None:
    from huggingface_hub.utils import _http

    for name in ("close_session", "reset_sessions"):  # its name after and before version 1
        getattr(_http, name, lambda: None)()


def same_weights(found: XLMWithLMHeadModel, directory: Path) -> bool:
    expected = XLMWithLMHeadModel.from_pretrained(directory).state_dict()
    state = found.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def listings(hub: FakeHub) -> int:
    return sum(request.path.startswith("/api/models/") for request in hub.requests)


def cached_files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("models--*/snapshots/*/*"))


# ---- what is fetched


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


LEGACY = "xlm-clm-ende-1024"


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
    """As transformers fills it: the hub leads from the old name to the new one."""
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


def in_shards(files: Files, name: Callable[[int], str], write: Callable[[dict[str, torch.Tensor]], bytes]) -> Files:
    from safetensors.torch import load

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


def pickled(value: object) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def safetensors_shards(files: Files) -> Files:
    return in_shards(files, lambda n: f"model-0000{n}-of-00002.safetensors" if n else "model.safetensors", save)


def pickled_shards(files: Files) -> Files:
    return in_shards(files, lambda n: f"pytorch_model-0000{n}-of-00002.bin" if n else "pytorch_model.bin", pickled)


def one_pickle(files: Files) -> Files:
    from safetensors.torch import load

    result = {**files, "pytorch_model.bin": pickled(load(files["model.safetensors"]))}
    del result["model.safetensors"]
    return result


def both(files: Files) -> Files:
    return {**one_pickle(files), **files}


def both_in_shards(files: Files) -> Files:
    return {**pickled_shards(files), **safetensors_shards(files)}


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
    with pytest.warns(XLMWarning, match="taken for a causal one"):
        assert XLMWithLMHeadModel.from_pretrained(ID).config.causal


# ---- revisions


def with_dropout(files: Files, value: float) -> Files:
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), "dropout": value}).encode()}


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
    hub.repositories[ID] = Repository(
        commits={commit_of("new"): with_dropout(files, 0.25), commit_of("main"): files}, refs={"main": commit_of("new")}
    )
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.25
    assert XLMWithLMHeadModel.from_pretrained(ID, local_files_only=True).config.dropout == 0.25
    hub.asked()
    assert XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main")).config.dropout == 0.1
    assert hub.asked() == []  # a commit that the cache holds is never asked for


@pytest.mark.parametrize("revision", ["../../x", "a b", "-x", "", "a\nb"])
def test_what_cannot_be_a_revision(revision: str, hub: FakeHub) -> None:
    with pytest.raises(InputError, match="revision"):
        XLMWithLMHeadModel.from_pretrained(f"{ID}@{revision}")
    with pytest.raises(InputError, match="Two revisions"):
        XLMWithLMHeadModel.from_pretrained(f"{ID}@v1", revision="v2")
    assert hub.requests == []


# ---- without a network


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline(how: str, hub: FakeHub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(kind: Any, **options: Any) -> Any:
        if how == "argument":
            return kind.from_pretrained(ID, cache_dir=tmp_path / "mine", local_files_only=True, **options)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            return kind.from_pretrained(ID, cache_dir=tmp_path / "mine", **options)

    for kind in (XLMWithLMHeadModel, XLMTokenizer):
        with pytest.raises(HubError, match=r"no such .* on this machine") as error:
            from_pretrained(kind)
        assert "HF_HUB_OFFLINE" in str(error.value)
        assert str(tmp_path / "mine") in str(error.value)
    assert hub.requests == []
    XLMTokenizer.from_pretrained(ID, cache_dir=tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
    hub.requests.clear()
    assert from_pretrained(XLMTokenizer) == XLMTokenizer.from_pretrained(saved)
    with pytest.raises(HubError, match="no such model on this machine"):
        from_pretrained(XLMWithLMHeadModel)  # its configuration is there, its weights are not
    with pytest.raises(HubError, match="no such tokenizer on this machine"):
        from_pretrained(XLMTokenizer, revision="v1")
    assert hub.requests == []


def gone(hub: FakeHub) -> None:
    hub.stop()


def overloaded(hub: FakeHub) -> None:
    hub.faults.status = 503


def limited(hub: FakeHub) -> None:
    hub.faults.status = 429


def captive(hub: FakeHub) -> None:
    hub.faults.html = True


def silent(hub: FakeHub) -> None:
    hub.faults.silent = True


PASSING: dict[Callable[[FakeHub], None], str] = {
    gone: "cannot be reached",
    overloaded: "out of order",
    limited: "no more requests",
    captive: "not the hub",
    silent: "cannot be reached",
}


@pytest.mark.parametrize("fault", PASSING)
def test_when_the_hub_fails_the_cache_serves(fault: Callable[[FakeHub], None], hub: FakeHub, saved: Path) -> None:
    XLMWithLMHeadModel.from_pretrained(ID)
    fault(hub)
    with pytest.warns(XLMWarning, match=rf"{PASSING[fault]}.*commit {commit_of('main')}"):
        assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


# ---- what goes wrong


def no_repository(hub: FakeHub) -> None:
    del hub.repositories[ID]


def private(hub: FakeHub) -> None:
    hub.repositories[ID].token = "hf_secret"


def gated(hub: FakeHub) -> None:
    hub.repositories[ID].gated = True


def forbidden(hub: FakeHub) -> None:
    hub.faults.listing_status = 403


def unauthorized(hub: FakeHub) -> None:
    hub.faults.listing_status = 401


def broken(hub: FakeHub) -> None:
    hub.faults.status = 500


def bad_request(hub: FakeHub) -> None:
    hub.faults.listing_status = 400


def another_server(hub: FakeHub) -> None:
    hub.faults.status = 404


def no_revision(hub: FakeHub) -> None:
    hub.repositories[ID].refs.clear()


def file_gone(hub: FakeHub) -> None:
    hub.faults.unlisted_404.add("model.safetensors")


def not_a_commit(hub: FakeHub) -> None:
    hub.repositories[ID].commits["../../x"] = {"config.json": b"{}"}
    hub.repositories[ID].refs["main"] = "../../x"


def cut_for_good(hub: FakeHub) -> None:
    hub.faults.cut = [100] + [0] * 20


def wrong_length(hub: FakeHub) -> None:
    hub.faults.size["model.safetensors"] = 12345


ERRORS: dict[Callable[[FakeHub], None], tuple[str, ...]] = {
    **{fault: (words,) for fault, words in PASSING.items()},
    gone: ("cannot be reached", "proxies", "HF_HUB_OFFLINE"),
    captive: ("not the hub", "log-in page"),
    no_repository: ("no such model", "private", "check the name", "401"),
    private: ("no such model", "private", "HF_TOKEN", "hf auth login"),
    gated: ("does not let you read", "accept its terms", "token"),
    forbidden: ("does not let you read", "not today"),
    unauthorized: ("private", "token"),
    broken: ("out of order", "500", "try again later"),
    bad_request: ("refuses the request", "400"),
    another_server: ("refuses the request", "404", "HF_ENDPOINT"),
    no_revision: ("no such revision", "branch, a tag or"),
    file_gone: ("does not have a file that it lists", "model.safetensors"),
    not_a_commit: ("not the hub", "../../x"),
    cut_for_good: ("cannot be reached", "try again"),
    wrong_length: ("did not arrive whole", "12345"),
}


@pytest.mark.parametrize("fault", ERRORS, ids=lambda fault: fault.__name__)
def test_errors(fault: Callable[[FakeHub], None], hub: FakeHub, tmp_path: Path) -> None:
    fault(hub)
    with pytest.raises(HubError) as caught:
        XLMWithLMHeadModel.from_pretrained(ID)
    error = caught.value
    for word in ERRORS[fault]:
        assert word in str(error)
    assert error.__cause__ is not None
    assert hub.url in str(error.where)
    assert "a directory, a file, or an id" in str(error)
    assert error.remedy
    assert str(error).isprintable() or set(str(error)) - {"\n"} == {c for c in str(error) if c.isprintable()}
    assert "model.safetensors" not in cached_files(tmp_path / "cache")


def test_after_a_failure_the_next_try_works(hub: FakeHub, saved: Path) -> None:
    cut_for_good(hub)
    with pytest.raises(HubError):
        XLMWithLMHeadModel.from_pretrained(ID)
    hub.faults.cut = []
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


def test_a_cut_connection_is_resumed(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # ten megabytes, of which what is cut off is dropped
    XLMTokenizer.from_pretrained(ID)  # so that the next file to be sent is that of the weights
    hub.requests.clear()
    hub.faults.cut = [1000, 500]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    weights = [request for request in hub.requests if request.path.endswith(".safetensors") and request.method == "GET"]
    assert [request.headers.get("range") for request in weights] == [None, "bytes=1000-", "bytes=1500-"]


def spoilt(content: bytes) -> bytes:
    """One bit of it turned, in the numbers of the weights, where no reader would see it."""
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_content_is_fetched_again(name: str, hub: FakeHub, files: Files, saved: Path) -> None:
    hub.faults.other[name] = [spoilt(files[name])]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert hub.asked().count(name) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_content_that_stays_wrong(name: str, hub: FakeHub, files: Files, tmp_path: Path, saved: Path) -> None:
    hub.faults.other[name] = [spoilt(files[name])] * 2
    with pytest.raises(HubError, match="another content than the hub lists") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert name in str(error.value)
    assert name not in cached_files(tmp_path / "cache")
    assert not any(path.read_bytes() == spoilt(files[name]) for path in tmp_path.rglob("blobs/*"))
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


def test_a_cached_file_that_was_cut_is_fetched_again(hub: FakeHub, tmp_path: Path, saved: Path) -> None:
    XLMWithLMHeadModel.from_pretrained(ID)
    path = next((tmp_path / "cache").glob("models--*/snapshots/*/model.safetensors")).resolve()
    path.write_bytes(path.read_bytes()[:-8])
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(hub)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID, token="hf_secret"), saved)
    to_the_hub = [request for request in hub.requests if not request.path.startswith("/cdn/")]
    elsewhere = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert {request.headers.get("authorization") for request in to_the_hub} == {"Bearer hf_secret"}
    assert [request.headers.get("authorization") for request in elsewhere] == [None]
    with pytest.raises(HubError, match="no such model") as error:
        XLMTokenizer.from_pretrained(ID, token="hf_another")
    assert "hf_another" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
    with pytest.raises(HubError, match="no such model"):
        XLMTokenizer.from_pretrained(ID, token=False)


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(HubError, match="could not be written") as error:
        XLMWithLMHeadModel.from_pretrained(ID, cache_dir=tmp_path / "file")
    assert "HF_HOME" in str(error.value)


def test_xet_is_not_needed(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.xet = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


class XetAuthenticationError(PermissionError):
    """As that of the library of xet, which may be missing."""


def test_xet_that_fails(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise XetAuthenticationError("no access to the store of chunks")

    monkeypatch.setattr("huggingface_hub.file_download.is_xet_available", lambda: True)
    monkeypatch.setattr("huggingface_hub.file_download.xet_get", fail)
    hub.faults.xet = True
    with pytest.raises(HubError, match="xet protocol failed") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert "HF_HUB_DISABLE_XET=1" in str(error.value)


@pytest.mark.parametrize("token", ["hf_secret\n", "hf secret", "", "hf_geheïm"])
def test_what_cannot_be_a_token_is_not_printed(token: str, hub: FakeHub) -> None:
    with pytest.raises(InputError, match="cannot be a token") as error:
        XLMTokenizer.from_pretrained(ID, token=token)
    assert "hf" not in str(error.value)
    assert hub.requests == []


def test_a_token_that_an_error_prints_is_left_out() -> None:
    # What h11 says of a saved token with a NUL in it.
    error = explain(RuntimeError("Illegal header value b'Bearer hf_secret\\x00 tail'"), "the hub", cache=Path())
    assert error.found == "RuntimeError: Illegal header value b'Bearer …"


def test_a_saved_token_that_is_not_there(hub: FakeHub) -> None:
    with pytest.raises(HubError, match="no token on this machine"):
        XLMTokenizer.from_pretrained(ID, token=True)


@pytest.mark.parametrize(
    ("taken_out", "kind", "words"),
    [
        (["config.json"], XLMWithLMHeadModel, ["holds no model", "config.json"]),
        (["vocab.json"], XLMTokenizer, ["holds no tokenizer", "vocab.json"]),
        (["merges.txt"], XLMTokenizer, ["does not hold a tokenizer", "merges.txt"]),
        (["model.safetensors"], XLMWithLMHeadModel, ["no weights that can be read", "tf_model.h5", "transformers"]),
    ],
)
def test_incomplete_repositories(taken_out: list[str], kind: Any, words: list[str], hub: FakeHub, files: Files) -> None:
    hub.repositories[ID] = repository({name: content for name, content in files.items() if name not in taken_out})
    with pytest.raises(XLMError) as error:
        kind.from_pretrained(ID)
    for word in words:
        assert word in str(error.value)


def test_a_text_file_that_is_far_too_large(
    hub: FakeHub, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("xlm.checkpoint.hub_download._LARGEST_TEXT", len(files["config.json"]) - 1)
    with pytest.raises(HubError, match="far too large"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert cached_files(tmp_path / "cache") == []


# ---- what strangers put into repositories


def test_names_that_move_the_cursor(hub: FakeHub) -> None:
    hub.repositories[ID] = repository({"\x1b[2J\n": b"", "README.md": b"", "a" * 1000: b""})
    with pytest.raises(HubError, match="holds no model") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert str(error.value.found).isprintable()
    assert "README.md" in str(error.value.found)
    assert len(str(error.value.found)) <= 300


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_a_tag_that_points_elsewhere(header: str, there: bool, hub: FakeHub, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if there:
        outside.write_text("mine")
    # From the directory of the blobs; relative, as the library strips a slash from the front.
    hub.faults.headers[header] = (
        f'"{os.path.relpath(outside, tmp_path / "cache" / "models--someone--small" / "blobs")}"'
    )
    with pytest.raises(HubError, match="answered is not the hub"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert (outside.read_text() if outside.exists() else None) == ("mine" if there else None)


def test_a_commit_that_points_elsewhere(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults.unlisted_404.add("model.safetensors")
    hub.faults.headers["X-Repo-Commit"] = str(tmp_path / "outside")
    with pytest.raises(HubError, match="does not have a file that it lists"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert not (tmp_path / "outside").exists()


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
    with pytest.raises(CheckpointError, match="points elsewhere") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert type(error.value) is CheckpointError
    assert error.value.__cause__ is None
    assert "\x1b" not in str(error.value)
    assert hub.asked() == [f"/api/models/{ID}/revision/main", "model.safetensors.index.json"]


def missing_shard(files: Files) -> None:
    del files["model-00002-of-00002.safetensors"]


def tensor_twice(files: Files) -> None:
    from safetensors.torch import load

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
        (tensor_twice, ["shards are not those of the index", "extra"]),
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
    """Makes a file when it is unpickled."""

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
    with pytest.raises(CheckpointError, match="wants code to be run is refused"):
        XLMWithLMHeadModel.from_pretrained(ID)
    assert not (tmp_path / "sprung").exists()
    torch.load(next((tmp_path / "cache").rglob("*.bin")), weights_only=False)  # the trap does spring
    assert (tmp_path / "sprung").exists()


# ---- around it


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match="pip install huggingface_hub"):
        XLMTokenizer.from_pretrained(ID)


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
    assert failed.stderr.startswith("Error: There is no such model")
    assert "Traceback" not in failed.stderr


def test_the_environment_is_heeded(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    """In a process of its own, as a user sets it; the tokenizer of a model on the hub needs no torch."""
    private(hub)
    program = (
        "import sys; from xlm import XLMTokenizer; print(XLMTokenizer.from_pretrained('someone/small').vocab_size);"
        "assert 'torch' not in sys.modules; assert 'huggingface_hub' in sys.modules"
    )

    def run(**environment: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env={**kept, **own, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or done.stderr

    assert "HubError" in run(HF_HUB_OFFLINE="1")
    assert run() == str(len(VOCABULARY))
    downloads = [request for request in hub.requests if "/models/" in request.path or "/resolve/" in request.path]
    assert {request.headers.get("authorization") for request in downloads} == {"Bearer hf_secret"}
    hub.stop()
    assert run(HF_HUB_OFFLINE="1") == str(len(VOCABULARY))


def test_the_library_is_imported_for_ids_alone(saved: Path) -> None:
    program = (
        "import sys, xlm; from xlm import XLMTokenizer; import xlm.cli.score, xlm.cli.convert\n"
        f"XLMTokenizer.from_pretrained({str(saved)!r})\n"
        "assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
