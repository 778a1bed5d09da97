"""The cache without the hub. Oracles: the directory with the fake hub's files; that the fake hub got no request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.checkpoint.fake_hub import FakeHub
from tests.checkpoint.hub_files import ID, private
from tests.tokenizer.small import VOCABULARY
from xlm import XLMTokenizer, XLMWithLMHeadModel
from xlm.errors import HubError


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline(how: str, hub: FakeHub, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(kind: Any, **options: Any) -> Any:
        if how == "argument":
            return kind.from_pretrained(ID, cache_dir=tmp_path / "mine", local_files_only=True, **options)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            return kind.from_pretrained(ID, cache_dir=tmp_path / "mine", **options)

    for kind in (XLMWithLMHeadModel, XLMTokenizer):
        with pytest.raises(HubError, match=r"No such .* on this machine") as error:
            from_pretrained(kind)
        assert "HF_HUB_OFFLINE" in str(error.value)
        assert str(tmp_path / "mine") in str(error.value)
    assert hub.requests == []
    XLMTokenizer.from_pretrained(ID, cache_dir=tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
    hub.requests.clear()
    assert from_pretrained(XLMTokenizer) == XLMTokenizer.from_pretrained(saved)
    with pytest.raises(HubError, match="No such model on this machine"):
        from_pretrained(XLMWithLMHeadModel)  # its configuration is there, its weights are not
    with pytest.raises(HubError, match="No such tokenizer on this machine"):
        from_pretrained(XLMTokenizer, revision="v1")
    assert hub.requests == []


def test_the_environment_is_heeded(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    """In a process of its own, as a user sets it; a tokenizer from the hub needs no torch."""
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
