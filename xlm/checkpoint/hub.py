"""Models on the Hugging Face Hub: the ids of repositories, the files that a model needs, and the cache.

All libraries that use huggingface_hub share its cache. Neither torch nor huggingface_hub is imported until a model's
name turns out to be the id of a repository.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from xlm._io.arguments import as_path, check_flags
from xlm.errors import CheckpointError, DependencyError, HubError, InputError, XLMError, warn_caller

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/)?({_PART})", re.ASCII)
_LONGEST_ID = 96  # in characters; the hub's limit
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w./-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_REVISION = "main"

# The published XLM models. The hub lists them as FacebookAI/NAME, and redirects the older ids, which have no owner, to
# these. A cache may hold a model under either id.
_OWNER = "FacebookAI/"
_PUBLISHED = frozenset(
    {
        *("xlm-clm-ende-1024", "xlm-clm-enfr-1024", "xlm-mlm-en-2048", "xlm-mlm-ende-1024", "xlm-mlm-enfr-1024"),
        *("xlm-mlm-enro-1024", "xlm-mlm-xnli15-1024", "xlm-mlm-tlm-xnli15-1024", "xlm-mlm-17-1280", "xlm-mlm-100-1280"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubOptions:
    """Options for fetching models from the hub; ignored for local models.

    Attributes:
        revision: A branch, a tag or a commit; ``None`` means the branch ``main``.
        cache_dir: The directory for fetched files; ``None`` means the directory set by ``HF_HUB_CACHE`` or ``HF_HOME``.
        local_files_only: Whether to use the cache alone, without the network; ``HF_HUB_OFFLINE=1`` does the same.
        token: Access token for private and gated models; ``None`` means ``HF_TOKEN`` or the token that
            ``hf auth login`` saved, ``False`` means no token.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.cache_dir is not None:
            as_path("cache_dir", self.cache_dir)
        check_flags(local_files_only=self.local_files_only)
        if not isinstance(self.revision, str | None):
            raise InputError("revision is not a str", where="revision", found=type(self.revision).__name__)
        if not isinstance(self.token, str | bool | None):
            raise InputError("token is not a str", where="token", found=type(self.token).__name__)
        # HTTP libraries quote an invalid header in their errors, so a token that contains a line break would be
        # shown on the terminal.
        if isinstance(self.token, str) and not re.fullmatch(r"[!-~]+", self.token):
            raise InputError("invalid token", where="token", expected="printable ASCII characters without spaces")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The files of a repository that a caller needs.

    Attributes:
        what: Name for these files in messages, such as ``"model"``.
        required: The file that must exist. It is fetched last, so a cache that has it also has the other files.
        optional: Files to fetch if the repository has them.
        weights: Whether the weights are needed, in the first supported format that the repository has.
    """

    what: str
    required: str
    optional: tuple[str, ...] = ()
    weights: bool = False


_TOKENIZER_FILES = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

MODEL = Part(what="model", required="config.json", weights=True)
TOKENIZER = Part(what="tokenizer", required="vocab.json", optional=("config.json", *_TOKENIZER_FILES))
WHOLE = Part(what="model", required="config.json", optional=("vocab.json", *_TOKENIZER_FILES), weights=True)
"""A model and, if the repository has one, its tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A repository on the hub at a revision: a branch, a tag or a commit.

    A repository can have several names: the current one and, for some, an older one. The hub is asked for the first
    name; the cache may hold the files under any of the names.
    """

    names: tuple[str, ...]
    revision: str

    @property
    def is_commit(self) -> bool:
        """Return whether the revision is the hash of a commit, whose files never change."""
        return _COMMIT.fullmatch(self.revision) is not None


def as_hub_model(name: str, revision: str | None = None) -> HubModel | None:
    """Return the repository that a name refers to, or ``None`` if the name can only be a path.

    Args:
        name: ``owner/name`` or ``name``, optionally with ``@revision``.
        revision: The revision, if the name does not contain one.

    Raises:
        InputError: Two different revisions were passed, or the revision is invalid.
    """
    model_id, at, suffix = name.partition("@")
    forbidden = "--" in model_id or ".." in model_id or model_id.endswith((".pth", ".git"))
    if not _ID.fullmatch(model_id) or forbidden or len(model_id) > _LONGEST_ID:
        return None
    if at and revision is not None and suffix != revision:
        raise InputError(
            "two revisions for one model", where="revision", found=f"{revision!r}, and {suffix!r} in the name"
        )
    revision = suffix if at else revision or _DEFAULT_REVISION
    if not _REVISION.fullmatch(revision):
        raise InputError(
            "invalid revision", where="revision", found=repr(revision), expected="a branch, a tag or a commit"
        )
    bare = model_id.removeprefix(_OWNER)
    names = (_OWNER + bare, bare) if bare in _PUBLISHED else (model_id,)
    return HubModel(names=names, revision=revision)


def fetch(model: HubModel, part: Part, options: HubOptions) -> Path:
    """Return the cache directory with the needed files of a repository, all of one commit.

    Files that the cache lacks are fetched. If the hub cannot answer, the files that were fetched last are used, with a
    warning.

    Args:
        model: The repository.
        part: The files that are needed.
        options: How to fetch. The revision of ``model`` is fetched; ``options.revision`` is ignored.

    Raises:
        CheckpointError: The index of the weights is wrong or hostile.
        HubError: The repository, its revision or a file does not exist, is not readable or is damaged; or the hub
            cannot answer and the cache does not hold the files.
        DependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise DependencyError(
            "huggingface_hub is missing or incomplete",
            where=model.names[0],
            found=error,
            remedy="pip install huggingface_hub, or download the repository yourself and give its directory",
        ) from error
    from xlm.checkpoint import hub_download

    cache = Path(options.cache_dir or constants.HF_HUB_CACHE).expanduser()
    offline = options.local_files_only or constants.HF_HUB_OFFLINE
    if offline or model.is_commit:
        directory = _cached(model, part, cache)
        if directory is not None:
            return directory
    if offline:
        raise HubError(
            f"no such {part.what} on this machine, and offline mode is on",
            where=f"{model.names[0]}, revision {model.revision}",
            found=f"no directory or file of that name, and no complete copy in {cache}",
            remedy="check the name; or fetch it once without local_files_only and HF_HUB_OFFLINE; or set cache_dir or "
            "HF_HOME to a cache that holds it",
        )
    where = f"{constants.ENDPOINT}/{model.names[0]}, revision {model.revision}"
    try:
        commit, files = hub_download.list_files(model.names[0], model.revision, options.token)
        # Another library may have cached the files under another name of the repository.
        cached = (name for name in model.names if _cached(HubModel(names=(name,), revision=commit), part, cache))
        name = next(cached, model.names[0])
        snapshot = hub_download.Snapshot(
            name=name, commit=commit, files=files, cache=cache, token=options.token, where=where
        )
        return snapshot.fetch(part, model.revision)
    except XLMError:
        raise
    except Exception as error:
        # Depending on its version, huggingface_hub raises errors of three HTTP libraries, without a common base class.
        explained = hub_download.explain(error, where, cache=cache)
        directory = _cached(model, part, cache) if hub_download.is_outage(error) else None
        if directory is None:
            raise explained from error
        warn_caller(f"{where}: {explained.what} ({explained.found}); using the cached files of commit {directory.name}")
        return directory


def _cached(model: HubModel, part: Part, cache: Path) -> Path | None:
    """Return the cache directory that holds the files needed from a repository, or ``None``."""
    from huggingface_hub import try_to_load_from_cache

    for name in model.names:
        path = try_to_load_from_cache(name, part.required, cache, model.revision)
        if isinstance(path, str) and not (part.weights and _lacks_weights(Path(path).parent)):
            return Path(path).parent
    return None


def _lacks_weights(directory: Path) -> bool:
    from xlm.checkpoint.hf_weights import is_index, read_weight_map, weights_file  # here, because it imports torch

    name = weights_file({entry.name for entry in directory.iterdir() if entry.is_file()})
    if name is None or not is_index(name):
        return name is None
    try:
        shards = set(read_weight_map(directory / name).values())
    except CheckpointError:
        return True  # fetch() downloads the index again, and raises an error if the hub's copy is damaged too
    return not all((directory / shard).is_file() for shard in shards)
