"""Who may ask. Oracle: what browsers send, by the Fetch standard, for a page of our own and for one of others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.explore.small import ADDRESS, Small
from xlm.explore.app import Guard

HOST = {"host": "127.0.0.1:8000"}
OURS = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
FOLLOWED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


async def nothing(*_: object) -> None:
    """An application that answers nothing."""


@pytest.mark.parametrize(
    "headers",
    [
        HOST,
        {**HOST, **OURS},
        {**HOST, "sec-fetch-site": "none"},
        {"host": "localhost:9000", "origin": "http://localhost:9000"},  # a forwarded port
        {"host": "LOCALHOST"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
        {"host": "127.1.2.3"},
        {"host": "tower:8000"},
    ],
    ids=str,
)
def test_the_page_and_programs_may(headers: dict[str, str]) -> None:
    assert Guard(nothing, names=frozenset({"tower"})).refusal(headers, page=False) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": ""},
        {"host": "evil.example"},  # its name rebound to 127.0.0.1
        {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec-fetch-site": "same-origin"},
        {"host": "127.0.0.1.evil.example:8000"},
        {"host": "127.0.0.1@evil.example"},
        {"host": "localhost.evil.example"},
        {"host": "192.168.0.7:8000"},
        {"host": "0.0.0.0:8000"},
        {"host": "[::1:8000"},
        {**HOST, "origin": "http://evil.example"},
        {**HOST, "origin": "null"},
        {**HOST, "origin": "https://127.0.0.1:8000"},
        {**HOST, "origin": "http://127.0.0.1:8001"},
        {**HOST, "origin": "http://localhost:8000"},
        {**HOST, "sec-fetch-site": "cross-site"},
        {**HOST, "sec-fetch-site": "same-site"},
        {**HOST, **FOLLOWED},
    ],
    ids=str,
)
def test_other_pages_may_not(headers: dict[str, str]) -> None:
    assert Guard(nothing).refusal(headers, page=False) is not None


def test_a_link_leads_to_the_page_and_to_nothing_else() -> None:
    guard = Guard(nothing)
    assert guard.refusal({**HOST, **FOLLOWED}, page=True) is None
    assert guard.refusal({**HOST, **FOLLOWED, "sec-fetch-dest": "iframe"}, page=True) is not None
    assert guard.refusal({**HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, page=True) is not None
    assert guard.refusal({**FOLLOWED, "host": "evil.example"}, page=True) is not None


def test_other_addresses_only_where_it_is_served_to_others() -> None:
    open_to_all = Guard(nothing, any_address=True)
    assert open_to_all.refusal({"host": "192.168.0.7:8000"}, page=False) is None
    assert open_to_all.refusal({"host": "evil.example"}, page=False) is not None


SCORE = {"text": "a", "lang": "en"}


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/model", "/api/score", "/api/generate", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}],
    ids=str,
)
def test_refused_is_403_whatever_is_asked_for(small: Small, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        response = small.client().request(method, path, headers=headers)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["content-security-policy"].startswith("default-src 'none';")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_could_send_is_refused(small: Small, kind: str) -> None:
    response = small.client().post("/api/score", content=b'{"text": "a", "lang": "en"}', headers={"content-type": kind})
    assert response.status_code == 415


def test_a_preflight_gets_no_permission(small: Small) -> None:
    response = small.client().options("/api/score", headers={"access-control-request-method": "POST"})
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(small: Small) -> None:
    client = small.client()
    answers = [
        *(client.get(path) for path in ("/", "/static/style.css", "/api/model", "/nothing", "/api/score")),
        client.post("/api/score", json=SCORE),
        client.post("/api/score", json={}),
        client.post("/api/generate", json={**SCORE, "max_new_tokens": 2}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 405, 200, 400, 200]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "*" not in policy
        for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"):
            assert part in policy.split("; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


STATIC = REPOSITORY / "xlm" / "explore" / "static"
FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_as_it_is(small: Small, name: str) -> None:
    response = small.client().get(f"/static/{name}")
    assert response.content == (STATIC / name).read_bytes()
    expected = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert response.headers["content-type"].partition(";")[0] == expected[name.rpartition(".")[2]]


@pytest.mark.parametrize(
    "path", ["/static/", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/app.py", "/x"]
)
def test_no_other_file_is(small: Small, path: str) -> None:
    assert small.client().get(path).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_the_files_keep_to_themselves_and_make_no_markup_of_text(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    assert re.findall(r"(?:https?:)?//[\w.]+\.[a-z]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser")
    assert [word for word in (*forbidden, "srcdoc", "javascript:", "onclick=", "style=") if word in text] == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="/static/main.js">']
    assert "<style" not in page
    wanted = {Path(link).name for link in re.findall(r'(?:src|href)="/static/([^"]+)"', page)}
    imported = {
        name for file in STATIC.glob("*.js") for name in re.findall(r'from "\./([^"]+)"', file.read_text("utf-8"))
    }
    assert wanted | imported == set(FILES) - {"index.html"}
