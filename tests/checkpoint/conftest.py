"""What the tests of the hub share: a small model, its files, and a hub on the loopback that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from tests.checkpoint.fake_hub import FakeHub, repository
from tests.checkpoint.hub_files import ID, Files, forget_connections
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm import XLMConfig, XLMTokenizer, XLMWithLMHeadModel


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
