"""Wrong requests, large ones, many at once. Oracle: the statuses of HTTP and the limits."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.explore.small import ADDRESS, GENERATE, JSON, Slow, Small
from xlm.errors import XLMError
from xlm.explore.requests import Limits
from xlm.explore.server import BusyError, Worker


def post(small: Small, path: str, body: bytes | str) -> tuple[int, dict[str, str]]:
    response = small.client().post(path, content=body, headers=JSON)
    return response.status_code, response.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"text": NaN}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"[1]", "not an object"),
        (b"null", "not an object"),
        (b"{}", "lang: missing; text: missing"),
        (b'{"text": 1, "lang": "en"}', "text: a string"),
        (b'{"text": null, "lang": "en"}', "text: a string"),
        (b'{"text": "a", "lang": ["en"]}', "lang: a string"),
        (b'{"text": "a", "lang": "en", "x": 1, "__class__": 2}', "x: no such key; __class__: no such key"),
        (b'{"text": "a", "lang": "fr"}', "de or en"),
        (b'{"text": "a", "lang": "en", "preset": "fast"}', "'transformers', 'transformers-v4' or 'original'"),
        (b'{"text": "a", "lang": "en", "top": true}', "top: a whole number"),
        (b'{"text": "a", "lang": "en", "top": -1}', "from 0 to 50"),
        (b'{"text": "a", "lang": "en", "top": 51}', "from 0 to 50"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_request_is_told_what_is_wrong(small: Small, body: bytes, said: str) -> None:
    status, error = post(small, "/api/score", body)
    assert status == 400
    assert said in " ".join(error.values())


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"max_new_tokens": 0}, "from 1 to 512"),
        ({"max_new_tokens": 513}, "from 1 to 512"),
        ({"max_new_tokens": 1.5}, "a whole number"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "1"}, "temperature: a number"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"seed": 2**53}, "from 0 to"),
        ({"seed": -1}, "from 0 to"),
        ({"do_sample": 1}, "true or false"),
        ({"continuation_lang": "fr"}, "de or en"),
        ({"text": "the " * 24}, "at most 24"),
        ({"num_beams": 10**9}, "no such key"),
    ],
    ids=str,
)
def test_a_wrong_knob_is_told_before_anything_streams(small: Small, knobs: dict[str, Any], said: str) -> None:
    status, error = post(small, "/api/generate", json.dumps({"text": "the", "lang": "en", **knobs}))
    assert status == 400
    assert said in " ".join(error.values())


def test_limits_of_size(demo_files: Path) -> None:
    small = Small(demo_files, limits=Limits(body=2_000, characters=100, tokens=40))

    def status(text: str) -> tuple[int, str]:
        response = small.client().post("/api/score", json={"text": text, "lang": "en"})
        return response.status_code, response.text

    assert status("a" * 40)[0] == 200
    assert status("a b " * 10)[0] == 200
    assert status("a" * 100 + "b")[0] == 413
    assert "101 characters" in status("a" * 100 + "b")[1]
    assert status("! " * 50)[0] == 413
    assert "50 tokens" in status("! " * 50)[1]
    assert "2,000 bytes" in status("a" * 2_000)[1]
    small.worker.close()


def test_a_hundred_kilobytes_are_refused_with_a_remedy(small: Small) -> None:
    status, error = post(small, "/api/score", json.dumps({"text": "<b>" * 34_000, "lang": "en"}))
    assert status == 413
    assert error["found"] == "102,000 characters"
    assert "xlm score" in error["remedy"]


def test_a_body_of_any_length_is_not_read_to_its_end(small: Small) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 10_000

    # The test client joins the chunks; what counts is that the answer says where it stopped.
    response = small.client().post("/api/score", content=chunks(), headers=JSON)
    assert response.status_code == 413
    assert "more than 262,144 bytes" in response.text


def test_too_many_at_once_are_told_to_come_again(demo_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(demo_files, limits=Limits(requests=2))
    slow = Slow(small, monkeypatch)

    async def run() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app=small.app)
        async with httpx2.AsyncClient(transport=transport, base_url=ADDRESS) as client:
            running = [asyncio.create_task(client.post("/api/generate", json=GENERATE)) for _ in range(2)]
            await asyncio.sleep(0.1)
            refused = await client.post("/api/score", json={"text": "a", "lang": "en"})
            slow.gate.set()
            done = await asyncio.gather(*running)
            after = await client.post("/api/score", json={"text": "a", "lang": "en"})
            return [refused, *done, after]

    refused, first, second, after = asyncio.run(run())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "try again" in refused.json()["error"]["remedy"]
    assert (first.status_code, second.status_code, after.status_code) == (200, 200, 200)
    assert first.text == second.text  # both took turns with one model
    assert len(first.text.splitlines()) > 5
    small.worker.close()


def test_an_error_in_the_middle_of_a_stream_is_its_last_line(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def continuation(request: Any) -> Iterator[Any]:
        yield {"id": 1, "text": "a"}
        raise XLMError("the model's scores are not finite", remedy="another model")

    monkeypatch.setattr(small.explorer, "continuation", continuation)
    response = small.client().post("/api/generate", json=GENERATE)
    assert response.status_code == 200
    first, last = map(json.loads, response.text.splitlines())
    assert first == {"id": 1, "text": "a"}
    assert last["error"] == {"what": "The model's scores are not finite", "remedy": "another model"}


def test_a_bug_tells_the_page_nothing(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any) -> None:
        raise RuntimeError("a secret of the program")

    monkeypatch.setattr(small.explorer, "score", fail)
    response = small.client(raise_server_exceptions=False).post("/api/score", json={"text": "a", "lang": "en"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    with pytest.raises(RuntimeError, match="secret"):  # but the log gets its traceback
        small.client().post("/api/score", json={"text": "a", "lang": "en"})


def test_a_worker_takes_turns_and_forgets_those_who_left() -> None:
    worker, gate = Worker(3), threading.Event()
    done: list[int] = []

    async def run() -> None:
        held = asyncio.create_task(worker.run(gate.wait, 30))
        rest = [asyncio.create_task(worker.run(done.append, number)) for number in range(4)]
        await asyncio.sleep(0)
        rest[1].cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(held, *rest, return_exceptions=True)
        with worker.admitted(), worker.admitted(), worker.admitted(), pytest.raises(BusyError), worker.admitted():
            pass
        with pytest.raises(ValueError, match="own"), worker.admitted():
            raise ValueError("own")
        assert worker._admitted == 0

    asyncio.run(run())
    assert done == [0, 2, 3]
    worker.close()
