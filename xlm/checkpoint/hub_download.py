"""Download the files of one commit from the Hugging Face Hub, check them against its listing, and explain errors.

huggingface_hub lists the files and transfers their bytes; this module stores them in the cache. ``hf_hub_download``
takes the names of cached files unchecked from the headers ``ETag`` and ``X-Repo-Commit``, so a server that answers in
place of the hub could write to any path. In this module, each file's name is the verified hash of its content, and no
header becomes part of a path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, errors, file_download, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # it has no __all__
from huggingface_hub.utils._runtime import is_xet_available

from xlm._io.atomic import write_text
from xlm._version import __version__
from xlm.errors import HubError

if TYPE_CHECKING:
    from xlm.checkpoint.hub import Part

_LARGEST_TEXT = 1 << 28
"""Maximum size of a text file in bytes; the largest published vocabulary has about ten million."""
_CHUNK = 1 << 20
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TAG = re.compile(r"\w[\w.+=~-]*", re.ASCII)
_SHOWN_FILES = 12

Token = str | bool | None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file in the hub's listing of a repository.

    Attributes:
        size: Size in bytes, or ``None`` if the server lists no sizes.
        digest: The SHA-256 of a large file, or the SHA-1 by which git names a small file; ``None`` if the server lists
            no hashes.
    """

    size: int | None
    digest: str | None

    @property
    def is_large(self) -> bool:
        """Return whether the file is stored outside of git."""
        return self.digest is not None and len(self.digest) == 64

    def mismatch(self, path: Path) -> str:
        """Return how a file on disk differs from the listing, or an empty string if it does not."""
        size = path.stat().st_size
        if self.size not in (None, size):
            return f"{size} bytes"
        digest = hashlib.sha256() if self.is_large else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return "" if self.digest in (None, digest.hexdigest()) else f"{size} bytes, {digest.hexdigest()}"

    def is_cached_at(self, path: Path) -> bool:
        """Return whether a path holds the listed file.

        A large file is compared by size only, because its hash was checked after its download.
        """
        if path.is_file() and self.is_large:
            return self.size in (None, path.stat().st_size)
        return path.is_file() and not self.mismatch(path)


def list_files(name: str, revision: str, token: Token) -> tuple[str, dict[str, ListedFile]]:
    """Return the commit that a revision of a repository currently refers to, and the files of that commit by name.

    Raises:
        ValueError: The listing is for another commit, or contains an invalid hash.
        Exception: Any error of huggingface_hub.
    """
    api = HfApi(library_name="xlm", library_version=__version__)
    info = api.model_info(
        name, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=token
    )
    commit = str(info.sha)
    if not _HASH.fullmatch(commit) or (_HASH.fullmatch(revision) and revision != commit):
        raise ValueError(f"the listing names commit {commit!r}")
    files: dict[str, ListedFile] = {}
    for file in info.siblings or []:
        digest = file.blob_id if file.lfs is None else file.lfs.sha256
        if digest is not None and not _HASH.fullmatch(digest):
            raise ValueError(f"the listing has the invalid hash {digest!r}")
        files[file.rfilename] = ListedFile(file.size, digest)
    return commit, files


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files of one commit of a repository, in the cache or still to be fetched.

    Attributes:
        name: The repository's id.
        commit: The hash of the commit.
        files: The hub's listing of the commit, by name.
        cache: The root of the cache.
        token: As in ``HubOptions``.
        where: The repository, for messages.
    """

    name: str
    commit: str
    files: dict[str, ListedFile]
    cache: Path
    token: Token
    where: str

    @property
    def _folder(self) -> Path:
        return self.cache / file_download.repo_folder_name(repo_id=self.name, repo_type="model")

    @property
    def _directory(self) -> Path:
        return self._folder / "snapshots" / self.commit

    def fetch(self, part: Part, revision: str) -> Path:
        """Return the directory with the needed files, after fetching those that the cache lacks.

        The cache also records which commit the revision refers to, for later use without the network.

        Raises:
            HubError: The repository lacks a needed file, or the hub sends content that differs from its listing.
            CheckpointError: The index of the weights is wrong or hostile.
            Exception: Any error of huggingface_hub.
        """
        if part.required not in self.files:
            raise HubError(
                f"the repository holds no {part.what} in a supported format",
                where=self.where,
                found=self._listing(),
                expected=f"{part.required}, in the transformers layout",
                remedy="check the name",
            )
        texts = [name for name in (*part.optional, part.required) if name in self.files]
        for name in texts:
            self._check_text_size(name)
        for name in (*(self._weights() if part.weights else ()), *texts):
            self._file(name)
        if revision != self.commit:
            self._note(revision)
        return self._directory

    def _listing(self) -> str:
        return _one_line(", ".join(sorted(self.files)[:_SHOWN_FILES])) or "no files"

    def _check_text_size(self, name: str) -> None:
        size = self.files[name].size
        if size is not None and size > _LARGEST_TEXT:
            raise HubError(
                "a text file of the repository is far too large",
                where=f"{self.where}, {name}",
                found=f"{size:,} bytes",
                expected=f"at most {_LARGEST_TEXT:,}",
            )

    def _weights(self) -> list[str]:
        """Return the names of the weights files, including the index of shards."""
        from xlm.checkpoint.hf_weights import is_index, read_weight_map, weights_file  # here, because it imports torch

        weights = weights_file(self.files)
        if weights is None:
            raise HubError(
                "the repository holds no weights in a supported format",
                where=self.where,
                found=self._listing(),
                expected="model.safetensors or pytorch_model.bin, or one of them in shards with its index",
                remedy="convert weights of other frameworks with transformers first",
            )
        if not is_index(weights):
            return [weights]
        self._check_text_size(weights)
        shards = sorted(set(read_weight_map(self._file(weights)).values()))
        if missing := [shard for shard in shards if shard not in self.files]:
            raise HubError(
                "the repository lacks shards of the weights",
                where=f"{self.where}, {weights}",
                found=_one_line(f"no {', '.join(missing[:8])}"),
                expected=f"the {len(shards)} files that the index names",
                remedy="pass another revision, or tell the owner of the repository",
            )
        return [weights, *shards]

    def _file(self, name: str) -> Path:
        """Return the path of a file in the cache, after fetching it if it is absent or differs from the listing."""
        listed, path = self.files[name], self._directory / name
        if listed.is_cached_at(path):
            return path
        blob = self._folder / "blobs" / (listed.digest or secrets.token_hex(32))
        lock = self.cache / ".locks" / self._folder.name / f"{blob.name}.lock"
        for directory in (path.parent, blob.parent, lock.parent):
            directory.mkdir(parents=True, exist_ok=True)
        # huggingface_hub takes the same lock, so that only one of many processes fetches a file.
        with WeakFileLock(lock), TemporaryDirectory(prefix="incomplete-", dir=self._folder) as temporary:
            if listed.is_cached_at(path):
                return path
            path.unlink(missing_ok=True)  # removes a link, but not the file behind it, which may belong to the user
            if not blob.is_file() or listed.mismatch(blob):
                blob.unlink(missing_ok=True)
                self._download(name, Path(temporary) / "content").replace(blob)
            if file_download.are_symlinks_supported(self.cache):
                link = Path(temporary) / "link"
                link.symlink_to(os.path.relpath(blob, path.parent))
                link.replace(path)
            else:
                blob.replace(path)
        return path

    def _download(self, name: str, target: Path) -> Path:
        """Download a file to ``target``, and return ``target``. If its content is wrong, download it once more."""
        listed, mismatch = self.files[name], ""
        for _ in range(2):
            self._transfer(name, target)
            mismatch = listed.mismatch(target)
            if not mismatch:
                return target
            target.unlink()
        raise HubError(
            "the content of a file differed twice from the hub's listing and was discarded",
            where=f"{self.where}, {name}",
            found=mismatch,
            expected=f"{listed.size} bytes, {listed.digest}",
            remedy="try another network, and check HF_ENDPOINT and proxies",
        )

    def _transfer(self, name: str, target: Path) -> None:
        """Download a file to ``target`` without checking its content."""
        url = hf_hub_url(self.name, name, revision=self.commit)
        headers = build_hf_headers(token=self.token, library_name="xlm", library_version=__version__)
        metadata = get_hf_file_metadata(url, token=self.token, timeout=constants.HF_HUB_ETAG_TIMEOUT, headers=headers)
        # These two headers never become part of a path, but a server that sends a path in them is hostile.
        if metadata.commit_hash != self.commit or not _TAG.fullmatch(metadata.etag or ""):
            raise ValueError(f"the headers of {name} name commit {metadata.commit_hash!r} and tag {metadata.etag!r}")
        if metadata.xet_file_data is not None and is_xet_available():
            file_download.xet_get(
                incomplete_path=target,
                xet_file_data=metadata.xet_file_data,
                headers=headers,
                expected_size=metadata.size,
                displayed_filename=name,
            )
            return
        if urlsplit(metadata.location)[:2] != urlsplit(url)[:2]:
            headers.pop("authorization", None)  # another host stores the file and must not get the token
        with target.open("wb") as file:
            file_download.http_get(
                metadata.location, file, headers=headers, expected_size=metadata.size, displayed_filename=name
            )

    def _note(self, revision: str) -> None:
        """Record in the cache, if it is writable, the commit that a revision refers to."""
        ref = self._folder / "refs" / revision
        if not ref.is_file() or ref.read_text("utf-8") != self.commit:
            with suppress(OSError):  # a read-only cache is not an error
                ref.parent.mkdir(parents=True, exist_ok=True)
                write_text(ref, self.commit)


_NOT_WRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
)
_LONGEST = 300
_ADVICE = ("Please make sure", "If you are trying", "For more")  # lines of an error that begin like this are dropped
_BEARER = re.compile(r"\bBearer .*", re.DOTALL)
_PASS_TOKEN = "pass token=, set HF_TOKEN, or run `hf auth login`"
_USE_CACHE = "HF_HUB_OFFLINE=1 opens models that were fetched before"


def explain(error: Exception, where: str, *, cache: Path) -> HubError:
    """Return a ``HubError`` that explains an error of huggingface_hub."""
    what, remedy = _what_and_remedy(error, cache)
    expected = "a directory, a file, or an id of a readable model on the hub"
    return HubError(what, where=where, found=_text(error), expected=expected, remedy=remedy)


def _one_line(text: object) -> str:
    """Return a server's text as one short line without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(printable.split())[:_LONGEST]


def is_outage(error: Exception) -> bool:
    """Return whether an error means that the network or the hub failed, so that cached files may be used."""
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, (errors.HFValidationError, errors.LocalTokenNotFoundError)):
        return False
    return not (isinstance(error, OSError) and error.errno in _NOT_WRITABLE)


def _what_and_remedy(error: Exception, cache: Path) -> tuple[str, str]:
    status = _status(error)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            "the hub does not let you read this model",
            f"accept the terms on its page, if there are any; then {_PASS_TOKEN}; the token must allow reading it",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            "no such model: no local directory or file, and no visible repository on the hub; it may be private",
            f"check the name; for a private or gated model, {_PASS_TOKEN}; the token may have expired",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the model has no such revision", "pass a branch, a tag or the full hash of a commit"
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return "the hub does not have a file that it lists", "try again; the repository may have just changed"
    if status == 429:
        return "the hub accepts no more requests for now", f"wait some minutes; for a higher limit, {_PASS_TOKEN}"
    if status is not None and status >= 500:
        return "the hub is out of order", f"try again later; {_USE_CACHE}"
    if status is not None:
        return "the hub refuses the request", "check the name and the revision, and HF_ENDPOINT if it is set"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token is saved on this machine", _PASS_TOKEN
    if isinstance(error, errors.HFValidationError):
        return "invalid model id", "check the name; an id is owner/name"
    if "xet" in f"{type(error).__module__}.{type(error).__name__}".lower():
        return (
            "the download over the xet protocol failed",
            "set HF_HUB_DISABLE_XET=1 to download by HTTP, and try again",
        )
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return (
            "a fetched file could not be written",
            f"free some space, or set cache_dir or HF_HOME to a writable directory instead of {cache}",
        )
    if type(error) is OSError:  # huggingface_hub raises a plain OSError for a file of the wrong size
        return "the download of a file is incomplete", "try again; if it fails again, a proxy may cut large files"
    if isinstance(error, (ValueError, TypeError, KeyError, AttributeError)):
        return (
            "the server that answered is not the hub",
            f"check HF_ENDPOINT if it is set, proxies, and whether this network shows a log-in page; {_USE_CACHE}",
        )
    return (
        "the hub cannot be reached",
        f"check the network, proxies (HTTPS_PROXY) and HF_ENDPOINT if it is set, and try again; {_USE_CACHE}",
    )


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _text(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if not line.startswith(_ADVICE)]
    status = _status(error)
    kind = type(error).__name__ if status is None else f"{type(error).__name__}, status {status}"
    # The errors of HTTP libraries quote an invalid header, and one header holds the token.
    return _one_line(f"{kind}: {_BEARER.sub('Bearer …', ' '.join(lines))}")
