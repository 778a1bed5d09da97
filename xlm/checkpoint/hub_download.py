"""The download of a repository's files: those that are wanted, at one commit, each the one that the hub lists."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

from xlm._version import __version__
from xlm.checkpoint.hub import COMMIT, HubModel, HubOptions, Part, cached
from xlm.checkpoint.hub_errors import shown
from xlm.checkpoint.hub_headers import plain_headers
from xlm.errors import HubError

_LARGEST_TEXT = 1 << 28
"""Bytes; the largest published vocabulary has some ten million."""
_CHUNK = 1 << 20
_TRIES = 3
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """What the hub says about a file.

    Attributes:
        size: In bytes.
        sha256: Of a large file.
        git: The id that git gives a small file, also a hash of its content.
    """

    size: int | None
    sha256: str | None
    git: str | None

    @property
    def tag(self) -> str:
        """What the content is called in the cache: by its hash, as the hub calls it; else as nothing else is."""
        listed = self.sha256 or self.git or ""
        return listed if _HASH.fullmatch(listed) else secrets.token_hex(32)


class Download:
    """The files of a repository, listed and fetched.

    Args:
        model: The repository.
        part: What is wanted of it.
        options: How to fetch.
        where: The repository, for messages.
    """

    def __init__(self, model: HubModel, part: Part, options: HubOptions, where: str) -> None:
        self._model = model
        self._part = part
        self._options = options
        self._cache_dir = None if options.cache_dir is None else str(Path(options.cache_dir).expanduser())
        self._where = where
        self._name = model.names[0]
        self._commit = ""
        self._files: dict[str, _Listed] = {}

    def directory(self) -> Path:
        """Where the files are, all of one commit.

        Raises:
            HubError: The repository does not hold what is wanted, or sends something else than it lists.
            Exception: Whatever the library raises.
        """
        required = self._part.required
        for _ in range(_TRIES):
            self._list()
            self._check_listing()
            for name in self._wanted():
                self._file(name)
            if self._model.is_commit or self._cached(required, self._model.revision) == self._cached(required):
                return self._file(required).parent
            # By its name the library notes what the revision means now, for use without a network. Where that is
            # another commit since the listing, the file is another one too.
            by_name = self._library_download(required, self._model.revision, secrets.token_hex(32))
            if by_name.parent.name == self._commit:
                return self._file(required).parent
        raise HubError(
            "the repository changes faster than it can be fetched",
            where=self._where,
            remedy="give a commit as the revision",
        )

    def _list(self) -> None:
        api = HfApi(library_name="xlm", library_version=__version__)
        info = api.model_info(
            self._model.names[0],
            revision=self._model.revision,
            files_metadata=True,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            token=self._options.token,
        )
        if not COMMIT.fullmatch(str(info.sha)):
            raise ValueError(f"a listing without the hash of a commit: {info.sha!r}")
        self._commit = str(info.sha)
        self._files = {
            file.rfilename: _Listed(
                size=file.size, sha256=None if file.lfs is None else file.lfs.sha256, git=file.blob_id
            )
            for file in info.siblings or []
        }
        # What another library has fetched under the other name is not fetched again.
        names, at = self._model.names, self._commit
        held = [name for name in names if cached(HubModel(names=(name,), revision=at), self._part, self._options)]
        self._name = (*held, *names)[0]

    def _check_listing(self) -> None:
        if self._part.required not in self._files:
            raise HubError(
                f"the repository holds no {self._part.what} of this kind",
                where=self._where,
                found=shown(", ".join(sorted(self._files)[:12])) or "no files",
                expected=f"{self._part.required}, in the transformers layout",
                remedy="check the name",
            )
        for name in (self._part.required, *self._part.optional):
            self._check_text_size(name)

    def _check_text_size(self, name: str) -> None:
        size = self._files[name].size if name in self._files else None
        if size is not None and size > _LARGEST_TEXT:
            raise HubError(
                "a text file of the repository is far too large",
                where=f"{self._where}, {name}",
                found=f"{size:,} bytes",
                expected=f"at most {_LARGEST_TEXT:,}",
            )

    def _wanted(self) -> list[str]:
        """Names of the files to fetch, the required one last."""
        names = [name for name in self._part.optional if name in self._files]
        return [*names, *(self._weights() if self._part.weights else ()), self._part.required]

    def _weights(self) -> list[str]:
        from xlm.checkpoint.layout_weights import first_form, is_index, read_weight_map  # imports torch

        form = first_form(self._files)
        if form is None:
            raise HubError(
                "the repository holds no weights that can be read",
                where=self._where,
                found=shown(", ".join(sorted(self._files)[:12])),
                expected="model.safetensors or pytorch_model.bin, or one of them in shards with its index",
                remedy="weights of other frameworks must be converted first, with transformers",
            )
        if not is_index(form):
            return [form]
        self._check_text_size(form)
        shards = sorted(set(read_weight_map(self._file(form)).values()))
        if missing := [shard for shard in shards if shard not in self._files]:
            raise HubError(
                "the repository lacks shards of the weights",
                where=f"{self._where}, {form}",
                found=shown(f"no {', '.join(missing[:8])}"),
                expected=f"the {len(shards)} files that the index names",
                remedy="give another revision, or tell the repository's owner",
            )
        return [form, *shards]

    def _file(self, name: str) -> Path:
        """A file in the cache, fetched where it is not there or is not what it should be."""
        listed, path = self._files[name], self._cached(name)
        if path is not None and not _difference(path, listed, hashing=listed.sha256 is None):
            return path  # a large file was hashed when it was fetched, and is known by its size from then on
        if path is not None:
            _remove(path)
        found = ""
        for _ in range(2):
            tag = listed.tag
            path = self._library_download(name, self._commit, tag)
            if path.is_symlink() and path.readlink().name != tag:
                # The server's own tag, see plain_headers; other files may have the same, so that it stays.
                path.unlink()
                found = "a name that is not this content's alone"
                continue
            found = _difference(path, listed)
            if not found:
                return path
            _remove(path)
        raise HubError(
            "a file came twice with another content than the hub lists; it was removed",
            where=f"{self._where}, {name}",
            found=found,
            expected=shown(f"{listed.size} bytes, {listed.sha256 or listed.git}"),
            remedy="try again from another network, and check HF_ENDPOINT and proxies; do not use the file",
        )

    def _cached(self, name: str, revision: str | None = None) -> Path | None:
        found = try_to_load_from_cache(self._name, name, self._cache_dir, revision or self._commit)
        return Path(found) if isinstance(found, str) else None

    def _library_download(self, name: str, revision: str, tag: str) -> Path:
        with plain_headers(tag):
            path: Any = hf_hub_download(
                self._name,
                name,
                revision=revision,
                cache_dir=self._cache_dir,
                token=self._options.token,
                library_name="xlm",
                library_version=__version__,
            )
        return Path(path)


def _difference(path: Path, listed: _Listed, *, hashing: bool = True) -> str:
    """What is wrong with a fetched file, or nothing; without hashing, whether its size is."""
    size = path.stat().st_size
    if listed.size not in (None, size):
        return f"{size} bytes"
    if not hashing:
        return ""
    expected, digest = listed.sha256, hashlib.sha256()
    if expected is None:
        # git's own hash of a file, by which the hub lists those that it does not store apart.
        expected, digest = listed.git, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return "" if expected in (None, digest.hexdigest()) else f"{size} bytes, {digest.hexdigest()}"


def _remove(path: Path) -> None:
    """Removes a file from the cache, and its content if that lies there; a link may lead to a user's file."""
    content = path.parent / path.readlink() if path.is_symlink() else path
    if content.parent.resolve() == (path.parents[2] / "blobs").resolve():
        content.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
