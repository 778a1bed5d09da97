"""A small model behind the page, in this process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.scoring.small import make_model, open_tokenizer
from xlm.explore.app import make_app
from xlm.explore.explorer import Explorer
from xlm.explore.requests import Limits
from xlm.explore.server import Worker, address_of, listen, make_server
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer

ADDRESS = "http://127.0.0.1:8000"
JSON = {"Content-Type": "application/json"}
GENERATE = {"text": "The", "lang": "en", "max_new_tokens": 20, "do_sample": False}
PRESETS = ("transformers", "transformers-v4", "original")


def examples() -> dict[str, str]:
    """The texts that the page begins with, by language."""
    script = (resources.files("xlm.explore") / "static" / "main.js").read_text(encoding="utf-8")
    block = re.search(r"^const EXAMPLES = {\n(.*?)^};$", script, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    return dict(re.findall(r'^  (\w+): "(.*)",$', block[1], flags=re.MULTILINE))


class Small:
    """An explorer of a small random model, with what is needed to compute the same without it."""

    def __init__(self, files: Path, *, positions: int = 24, limits: Limits | None = None, **options: Any) -> None:
        self.tokenizers: dict[str, XLMTokenizer] = {name: open_tokenizer(files, preset=name) for name in PRESETS}
        self.model: XLMWithLMHeadModel = make_model(
            self.tokenizers["original"].vocab_size, max_position_embeddings=positions
        )
        self.explorer = Explorer(
            self.model,
            lambda preset: self.tokenizers[preset or "original"],
            name="small",
            limits=limits,
            **options,
        )
        self.worker = Worker(self.explorer.limits.requests)
        self.app = make_app(self.explorer, self.worker)

    def client(self, **options: Any) -> TestClient:
        """Asks the application, without a server."""
        return TestClient(self.app, base_url=ADDRESS, **options)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of a server of it, in a thread."""
        server, listening = make_server(self.app, self.worker), listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield address_of(listening)
        finally:
            self.worker.ending = True
            server.should_exit = True
            thread.join()
            listening.close()
            self.worker.close()


class Slow:
    """Holds every step of a continuation until it is let go."""

    def __init__(self, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.steps = threading.Event(), 0
        real = small.explorer.continuation

        def continuation(request: Any) -> Iterator[Any]:
            for step in real(request):
                assert self.gate.wait(30)
                self.steps += 1
                yield step

        monkeypatch.setattr(small.explorer, "continuation", continuation)
