"""That what is read is what the hub lists.

Oracles: the directory that the files of the fake hub were read from; the fake hub's record of what it was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from tests.checkpoint.fake_hub import FakeHub, commit_of, repository
from tests.checkpoint.hub_files import (
    ID,
    MODEL_FILES,
    TOKENIZER_FILES,
    Files,
    cached_files,
    same_weights,
    spoilt,
)
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.checkpoint.hub_download import Download
from xlm.checkpoint.hub_headers import plain_headers
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


def test_xet_is_not_needed(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.xet = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


# ---- a server that calls different contents by one name


def one_tag(hub: FakeHub) -> None:
    hub.faults.headers = {"ETag": '"same"', "X-Linked-Etag": '"same"'}


def of_one_size(files: Files) -> Files:
    """With three files that only their contents tell apart."""
    names = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
    longest = max(len(files[name]) for name in names)
    return {**files, **{name: files[name].ljust(longest) for name in names}}


def with_more_dropout(files: Files) -> Files:
    """With another configuration of the same size."""
    changed = files["config.json"].replace(b'"dropout": 0.1', b'"dropout": 0.3')
    assert len(changed) == len(files["config.json"])
    assert changed != files["config.json"]
    return {**files, "config.json": changed}


def check_cache(cache: Path, commit: str, files: Files) -> None:
    """What lies there as the files of a commit are those."""
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
    one_tag(hub)
    hub.repositories[ID] = repository(files, later=with_more_dropout(files))
    wanted = Download._wanted

    def moves_on(download: Download) -> list[str]:
        hub.repositories[ID].refs["main"] = commit_of("later")
        return wanted(download)

    monkeypatch.setattr(Download, "_wanted", moves_on)
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.3
    assert XLMWithLMHeadModel.from_pretrained(ID, local_files_only=True).config.dropout == 0.3
    assert XLMWithLMHeadModel.from_pretrained(ID, revision=commit_of("main")).config.dropout == 0.1


def test_a_connection_made_anew_that_nobody_looks_at(
    hub: FakeHub, files: Files, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_tag(hub)
    tried: Counter[str] = Counter()

    @contextmanager
    def from_the_second_try(tag: str) -> Iterator[None]:
        tried[tag] += 1
        with plain_headers(tag) if tried[tag] > 1 else nullcontext():
            yield

    monkeypatch.setattr("xlm.checkpoint.hub_download.plain_headers", from_the_second_try)
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert list(tried.values()).count(2) == len({*MODEL_FILES, *TOKENIZER_FILES})
    check_cache(tmp_path / "cache", commit_of("main"), files)


def test_a_small_file_in_the_cache_is_that_of_its_commit(hub: FakeHub, files: Files, tmp_path: Path) -> None:
    """However it came there: another library may have followed the server's tags."""
    XLMWithLMHeadModel.from_pretrained(ID)
    path = next((tmp_path / "cache").glob("models--*/snapshots/*/config.json")).resolve()
    path.write_bytes(with_more_dropout(files)["config.json"])
    assert XLMWithLMHeadModel.from_pretrained(ID).config.dropout == 0.1


# ---- other threads, which have the library's session in common


def test_what_another_thread_fetches_meanwhile_is_its_own(hub: FakeHub, files: Files, tmp_path: Path) -> None:
    """Also within the block, where our own file's tag is looked for."""

    def fetched() -> bytes:
        return Path(hf_hub_download(ID, "README.md")).read_bytes()

    with ThreadPoolExecutor(1) as other, plain_headers("0" * 40):
        assert other.submit(fetched).result() == files["README.md"]
    assert [path.name for path in tmp_path.rglob("blobs/*")] != ["0" * 40]


def test_many_threads_and_one_cache(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(saved)

    def right(number: int) -> bool:
        cache = tmp_path / f"cache {number // 4}"
        if number % 2:
            return XLMTokenizer.from_pretrained(ID, cache_dir=cache) == tokenizer
        return same_weights(XLMWithLMHeadModel.from_pretrained(ID, cache_dir=cache), saved)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, range(12)))
