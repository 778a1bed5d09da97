"""A fake hub on localhost: the endpoints that a download uses, with faults on request.

It has the interface of https://huggingface.co: it lists a repository with sizes and hashes, and serves files under
``resolve``, small ones behind a redirect on the same host, large ones (LFS) behind a redirect to another host, here
``localhost``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".h5")
HTML = b"<!doctype html><title>Log in to the airport</title>"


@dataclass
class Repository:
    """A repository.

    Attributes:
        commits: The files of each commit.
        refs: The commit of each branch and tag.
        token: The token without which the repository is invisible.
        gated: Whether all requests for files are refused.
    """

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    gated: bool = False


@dataclass(frozen=True)
class Request:
    """A recorded request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        status: The status of every answer.
        listing_status: The status of every listing.
        html: Whether listings are answered with the page of a captive portal.
        no_hashes: Whether files are listed without hashes.
        listed_hash: The hash to list for every file.
        silent: Whether requests are never answered.
        cut: After how many bytes to cut off each of the next transfers.
        other: The content to send for a file, one for each of the next transfers.
        size: The wrong sizes to claim for files.
        unlisted_404: Files that are listed but answered with 404.
        xet: Whether large files are marked as stored by xet.
        headers: Replacements for headers that are sent; ``*`` stands for the right value.
    """

    status: int | None = None
    listing_status: int | None = None
    html: bool = False
    no_hashes: bool = False
    listed_hash: str | None = None
    silent: bool = False
    cut: list[int] = field(default_factory=list)
    other: dict[str, list[bytes]] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    unlisted_404: set[str] = field(default_factory=set)
    xet: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def commit_of(text: str) -> str:
    """Return a hash like those of commits."""
    return hashlib.sha1(text.encode()).hexdigest()


def repository(files: dict[str, bytes], **more: dict[str, bytes]) -> Repository:
    """Return a repository with these files on its branch ``main``, and further branches by their names."""
    branches = {"main": files, **more}
    return Repository(
        commits={commit_of(name): content for name, content in branches.items()},
        refs={name: commit_of(name) for name in branches},
    )


class FakeHub:
    """The server; a context manager that runs it.

    Attributes:
        url: Its endpoint.
        repositories: The repositories by id.
        moved: New ids by old ids.
        faults: What goes wrong; tests set it.
        requests: The requests so far.
        ended: Set when the server stops.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.ended = threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server; cut off requests that still wait for an answer."""
        if not self.ended.is_set():
            self.ended.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def asked(self, method: str = "GET") -> list[str]:
        """Return and clear the requested paths, sorted; of files only the names."""
        paths = [request.path for request in self.requests if request.method == method]
        self.requests.clear()
        return sorted(path if path.startswith("/api/models") else path.rsplit("/", 1)[-1] for path in paths)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(Request(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        faults = hub.faults
        if hub.ended.is_set():  # on a connection from before
            self.close_connection = True
        elif faults.silent:
            hub.ended.wait(10)
            self.close_connection = True
        elif faults.status is not None:
            self._send(faults.status, b"out of order")
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/"))
        elif path.startswith("/api/resolve-cache/"):
            model_id, _, rest = path.removeprefix("/api/resolve-cache/").partition("/at/")
            commit, _, name = rest.partition("/")
            self._content(model_id, commit, name)
        elif path.startswith("/cdn/"):
            model_id, _, rest = path.removeprefix("/cdn/").partition("/at/")
            commit, _, name = rest.partition("/")
            self._content(model_id, commit, name)
        elif "/resolve/" in path:
            model_id, _, rest = path[1:].partition("/resolve/")
            self._resolve(model_id, rest)
        else:
            self._send(404, b"no such page")

    def _repository(self, model_id: str, rest: str) -> Repository | None:
        hub = self.hub
        if model_id in hub.moved:
            self._send(307, b"", {"Location": rest.replace(model_id, hub.moved[model_id], 1)})
            return None
        found = hub.repositories.get(model_id)
        authorization = self.headers.get("authorization")
        if found is None or (found.token is not None and authorization != f"Bearer {found.token}"):
            if authorization is None:  # the hub does not tell strangers which private repositories there are
                self._send(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
            else:
                self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _listing(self, rest: str) -> None:
        faults = self.hub.faults
        if faults.html:
            self._send(200, HTML, {"Content-Type": "text/html"})
            return
        if faults.listing_status is not None:
            self._send(faults.listing_status, b'{"error": "not today \\u001b[2J"}')
            return
        model_id, _, revision = rest.partition("/revision/")
        found = self._repository(model_id, self.path)
        if found is None:
            return
        commit = found.refs.get(revision or "main", revision)
        if commit not in found.commits:
            self._send(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = []
        for name, content in found.commits[commit].items():
            file: dict[str, object] = {"rfilename": name, "size": len(content)}
            if not faults.no_hashes:
                file["blobId"] = faults.listed_hash or git_hash(content)
            if name.endswith(LARGE) and not faults.no_hashes:
                sha256 = faults.listed_hash or hashlib.sha256(content).hexdigest()
                file["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(file)
        answer = {"id": model_id, "modelId": model_id, "sha": commit, "siblings": siblings, "private": False}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, model_id: str, rest: str) -> None:
        found = self._repository(model_id, self.path)
        if found is None:
            return
        if found.gated:
            self._send(403, b'{"error": "Access to this model is restricted."}', {"X-Error-Code": "GatedRepo"})
            return
        revision, _, name = rest.rpartition("/")
        commit = found.refs.get(revision, revision)
        files = found.commits.get(commit)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif name not in files or name in self.hub.faults.unlisted_404:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif name.endswith(LARGE):
            content = files[name]
            headers = {
                "Location": f"http://localhost:{self.hub.port}/cdn/{model_id}/at/{commit}/{name}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(self.hub.faults.size.get(name, len(content))),
            }
            if self.hub.faults.xet:
                route = f"{self.hub.url}/api/models/{model_id}/xet-read-token/{commit}"
                headers["X-Xet-Hash"] = "0" * 64
                headers["X-Xet-Refresh-Route"] = route
                headers["Link"] = f'<{route}>; rel="xet-auth"'
            self._send(302, b"", headers)
        else:
            self._send(307, b"", {"Location": f"/api/resolve-cache/{model_id}/at/{commit}/{name}"})

    def _content(self, model_id: str, commit: str, name: str) -> None:
        faults, true = self.hub.faults, self.hub.repositories[model_id].commits[commit][name]
        sent = true
        if self.command == "GET" and faults.other.get(name):
            sent = faults.other[name].pop(0)
        tag = hashlib.sha256(true).hexdigest() if name.endswith(LARGE) else git_hash(true)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, wanted = 0, self.headers.get("range")
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(sent) - 1}/{len(sent)}"
        length = faults.size.get(name, len(sent)) if self.command == "HEAD" else len(sent)
        cut = faults.cut.pop(0) if faults.cut and self.command == "GET" else None
        self._send(206 if wanted is not None else 200, sent[start:], headers, length=length - start, cut=cut)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, self.hub.faults.headers.get(name, value).replace("*", value.strip('"')))
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def git_hash(content: bytes) -> str:
    """Return the hash by which git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
