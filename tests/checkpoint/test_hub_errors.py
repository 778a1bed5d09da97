"""Messages when the hub fails or refuses. Oracle: the faults that the fake hub was told to have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint.fake_hub import FakeHub, commit_of
from tests.checkpoint.hub_files import ID, cached_files, private, same_weights
from xlm import XLMTokenizer, XLMWarning, XLMWithLMHeadModel
from xlm.checkpoint.hub_download import explain
from xlm.errors import HubError, InputError


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
    with pytest.warns(XLMWarning, match=rf"{PASSING[fault]}.*commit {commit_of('main')}") as caught:
        assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)
    assert caught[0].filename == __file__


def no_repository(hub: FakeHub) -> None:
    del hub.repositories[ID]


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


def not_a_hash(hub: FakeHub) -> None:
    hub.faults.listed_hash = "../../x"


def cut_for_good(hub: FakeHub) -> None:
    hub.faults.cut = [100] + [0] * 20


def wrong_length(hub: FakeHub) -> None:
    hub.faults.size["model.safetensors"] = 12345


ERRORS: dict[Callable[[FakeHub], None], tuple[str, ...]] = {
    **{fault: (words,) for fault, words in PASSING.items()},
    gone: ("cannot be reached", "proxies", "HF_HUB_OFFLINE"),
    captive: ("not the hub", "log-in page"),
    no_repository: ("No such model", "private", "check the name", "401"),
    private: ("No such model", "private", "HF_TOKEN", "hf auth login"),
    gated: ("does not let you read", "accept the terms", "token"),
    forbidden: ("does not let you read", "not today"),
    unauthorized: ("private", "token"),
    broken: ("out of order", "500", "try again later"),
    bad_request: ("refuses the request", "400"),
    another_server: ("refuses the request", "404", "HF_ENDPOINT"),
    no_revision: ("no such revision", "branch, a tag or"),
    file_gone: ("does not have a file that it lists", "model.safetensors"),
    not_a_commit: ("not the hub", "../../x"),
    not_a_hash: ("not the hub", "../../x"),
    cut_for_good: ("cannot be reached", "try again"),
    wrong_length: ("download of a file is incomplete", "12345"),
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
    assert list(tmp_path.rglob("incomplete*")) == []


def test_after_a_failure_the_next_try_works(hub: FakeHub, saved: Path) -> None:
    cut_for_good(hub)
    with pytest.raises(HubError):
        XLMWithLMHeadModel.from_pretrained(ID)
    hub.faults.cut = []
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID), saved)


def test_the_token_goes_to_the_hub_alone(hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(hub)
    assert same_weights(XLMWithLMHeadModel.from_pretrained(ID, token="hf_secret"), saved)
    to_the_hub = [request for request in hub.requests if not request.path.startswith("/cdn/")]
    elsewhere = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert {request.headers.get("authorization") for request in to_the_hub} == {"Bearer hf_secret"}
    assert [request.headers.get("authorization") for request in elsewhere] == [None]
    with pytest.raises(HubError, match="No such model") as error:
        XLMTokenizer.from_pretrained(ID, token="hf_another")
    assert "hf_another" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert XLMTokenizer.from_pretrained(ID) == XLMTokenizer.from_pretrained(saved)
    with pytest.raises(HubError, match="No such model"):
        XLMTokenizer.from_pretrained(ID, token=False)


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(HubError, match="could not be written") as error:
        XLMWithLMHeadModel.from_pretrained(ID, cache_dir=tmp_path / "file")
    assert "HF_HOME" in str(error.value)


class XetAuthenticationError(PermissionError):
    """Stands for the error of hf_xet, which may not be installed."""


def test_xet_that_fails(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise XetAuthenticationError("no access to the store of chunks")

    monkeypatch.setattr("xlm.checkpoint.hub_download.is_xet_available", lambda: True)
    monkeypatch.setattr("huggingface_hub.file_download.xet_get", fail)
    hub.faults.xet = True
    with pytest.raises(HubError, match="xet protocol failed") as error:
        XLMWithLMHeadModel.from_pretrained(ID)
    assert "HF_HUB_DISABLE_XET=1" in str(error.value)


@pytest.mark.parametrize("token", ["hf_secret\n", "hf secret", "", "hf_geheïm"])
def test_what_cannot_be_a_token_is_not_printed(token: str, hub: FakeHub) -> None:
    with pytest.raises(InputError, match="Invalid token") as error:
        XLMTokenizer.from_pretrained(ID, token=token)
    assert "hf" not in str(error.value)
    assert hub.requests == []


def test_a_token_that_an_error_prints_is_left_out() -> None:
    # The message of h11 for a saved token that contains a null byte.
    error = explain(RuntimeError("Illegal header value b'Bearer hf_secret\\x00 tail'"), "the hub", cache=Path())
    assert error.found == "RuntimeError: Illegal header value b'Bearer …"


def test_a_saved_token_that_is_not_there(hub: FakeHub) -> None:
    with pytest.raises(HubError, match="No token is saved on this machine"):
        XLMTokenizer.from_pretrained(ID, token=True)
