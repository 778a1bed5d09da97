"""Every file that is read has the content that the hub lists.

Oracles: the directory with the fake hub's files; the requests that the fake hub recorded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, get_session, hf_hub_download
from huggingface_hub.utils import _http

from tests.checkpoint.fake_hub import FakeHub, commit_of, git_hash, repository
from tests.checkpoint.hub_files import ID, Files, cached_files, same_weights, spoilt
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint import hub_download
from xlm.errors import HubError


def test_a_cut_connection_is_resumed(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # ten megabytes, of which what is cut off is dropped
    XLMTokenizer.from_pretrained(ID)  # so that the next file to be sent is that of the weights
    hub.requests.clear()
    hub.faults.cut = [1000, 500]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    weights = [request for request in hub.requests if request.path.endswith(".safetensors") and request.method == "GET"]
    assert [request.headers.get("range") for request in weights] == [None, "bytes=1000-", "bytes=1500-"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_content_is_fetched_again(name: str, hub: FakeHub, files: Files, saved: Path) -> None:
    hub.faults.other[name] = [spoilt(files[name])]
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert hub.asked().count(name) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_content_that_stays_wrong(name: str, hub: FakeHub, files: Files, tmp_path: Path, saved: Path) -> None:
    hub.faults.other[name] = [spoilt(files[name])] * 2
    with pytest.raises(HubError, match="differed twice from the hub's listing") as error:
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


def test_xet_is_not_needed(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.xet = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


# ---- the cache that other libraries share


def test_what_is_fetched_serves_the_library(hub: FakeHub, files: Files) -> None:
    XLMWithLMHeadModel.from_pretrained(ID)
    hub.requests.clear()
    for name in ("config.json", "model.safetensors"):
        assert Path(hf_hub_download(ID, name, local_files_only=True)).read_bytes() == files[name]
        assert Path(hf_hub_download(ID, name)).read_bytes() == files[name]
    assert hub.asked() == []


def test_a_file_system_without_links(hub: FakeHub, saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    for _ in range(2):
        assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert hub.asked().count("model.safetensors") == 1
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_a_cache_that_cannot_note_what_a_branch_means(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    """For example a read-only cache that another library filled by commit."""
    XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main"))
    (tmp_path / "cache" / "models--someone--small" / "refs").write_text("no directory")
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


# ---- a server that sends one tag for different contents


def one_tag(hub: FakeHub) -> None:
    hub.faults.headers = {"ETag": '"same"', "X-Linked-Etag": '"same"'}


def of_one_size(files: Files) -> Files:
    """Pad three files to one size, so that only their contents differ."""
    names = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
    longest = max(len(files[name]) for name in names)
    return {**files, **{name: files[name].ljust(longest) for name in names}}


def with_more_dropout(files: Files) -> Files:
    """Change the configuration without changing its size."""
    changed = files["config.json"].replace(b'"dropout": 0.1', b'"dropout": 0.3')
    assert len(changed) == len(files["config.json"])
    assert changed != files["config.json"]
    return {**files, "config.json": changed}


def check_cache(cache: Path, commit: str, files: Files) -> None:
    """Check that the cached files of a commit are the files of that commit."""
    found = {path.name: path.read_bytes() for path in cache.glob(f"models--*/snapshots/{commit}/*")}
    assert {*found} >= {"config.json", "vocab.json", "merges.txt", "model.safetensors"}
    assert found == {name: files[name] for name in found}


@pytest.mark.parametrize("hashes", [True, False])
def test_files_of_one_tag_are_kept_apart(hashes: bool, hub: FakeHub, files: Files, saved: Path, tmp_path: Path) -> None:
    files = of_one_size(files)
    hub.repositories[ID] = repository(files)
    one_tag(hub)
    hub.faults.no_hashes = not hashes
    for _ in range(2):
        assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
        assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    check_cache(tmp_path / "cache", commit_of("main"), files)
    hub.repositories[ID] = repository(files, later=with_more_dropout(files))
    assert XLMWithLMHeadModel.from_pretrained(ID, revision="later").config.dropout == 0.3
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.1
    check_cache(tmp_path / "cache", commit_of("main"), files)


def test_a_branch_that_moves_while_its_files_are_fetched(
    hub: FakeHub, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listed commit is fetched and noted in the cache; the next use fetches the new one."""
    one_tag(hub)
    hub.repositories[ID] = repository(files, later=with_more_dropout(files))
    really = hub_download.list_files

    def moves_on(*arguments: Any) -> Any:
        listed = really(*arguments)
        hub.repositories[ID].refs["main"] = commit_of("later")
        return listed

    monkeypatch.setattr(hub_download, "list_files", moves_on)
    for dropout in (0.1, 0.3):
        assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == dropout
        assert XLMWithLMHeadModel.from_pretrained(ID, local_files_only=True).config.dropout == dropout
    assert XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main")).config.dropout == 0.1


def test_a_small_file_in_the_cache_is_that_of_its_commit(hub: FakeHub, files: Files, tmp_path: Path) -> None:
    """Another library may have put a wrong file there by following the server's tags."""
    XLMWithLMHeadModel.from_pretrained(ID)
    path = next((tmp_path / "cache").glob("models--*/snapshots/*/config.json")).resolve()
    path.write_bytes(with_more_dropout(files)["config.json"])
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.1


# ---- other users of the library, and other threads


def shared_state() -> dict[str, object]:
    """Return what all users of the library in a process share: its session, the session's hooks and its factories."""
    session: Any = get_session()
    hooks = session.event_hooks if hasattr(session, "event_hooks") else session.hooks  # httpx or requests
    makers = {name: value for name, value in vars(_http).items() if name.endswith("_FACTORY")}
    return {"session": session, **makers, **{name: list(called) for name, called in hooks.items()}}


def test_others_who_use_the_library_notice_nothing(hub: FakeHub, files: Files, tmp_path: Path) -> None:
    before = shared_state()
    with ThreadPoolExecutor(1) as other:
        fetched = other.submit(hf_hub_download, ID, "README.md", cache_dir=tmp_path / "theirs")
        XLMTokenizer.from_pretrained(ID)
    assert Path(fetched.result()).read_bytes() == files["README.md"]
    assert Path(fetched.result()).resolve().name == git_hash(files["README.md"])
    assert shared_state() == before


def test_many_threads_and_one_cache(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(saved)

    def right(number: int) -> bool:
        cache = tmp_path / f"cache {number // 4}"
        if number % 2:
            return XLMTokenizer.from_pretrained(ID, cache_dir=cache) == tokenizer
        return same_weights(XLMWithLMHeadModel.from_pretrained(ID, cache_dir=cache), saved)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, range(12)))
    assert hub.asked().count("model.safetensors") == 3  # once for each cache
