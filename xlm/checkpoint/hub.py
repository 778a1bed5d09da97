"""A model of the Hugging Face hub: its id, the files of it that are wanted, and where they lie in the cache.

The cache is the one that all libraries of the hub share. Neither torch nor the hub's own library is imported before a
name turns out to be an id.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from xlm._io.files import as_path
from xlm.errors import CheckpointError, DependencyError, HubError, InputError, XLMError, warn_caller

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/)?({_PART})", re.ASCII)
_LONGEST_ID = 96  # characters, as the hub has it
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][\w./-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_REVISION = "main"

# The published models of the paper and its successors. The hub now has them under an owner, and leads from the names
# without; a cache may hold them under either.
_OWNER = "FacebookAI/"
_PUBLISHED = frozenset(
    {
        *("xlm-clm-ende-1024", "xlm-clm-enfr-1024", "xlm-mlm-en-2048", "xlm-mlm-ende-1024", "xlm-mlm-enfr-1024"),
        *("xlm-mlm-enro-1024", "xlm-mlm-xnli15-1024", "xlm-mlm-tlm-xnli15-1024", "xlm-mlm-17-1280", "xlm-mlm-100-1280"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubOptions:
    """How to fetch from the hub; nothing of it matters for a model that is here already.

    Attributes:
        revision: A branch, a tag or a commit; the branch ``main`` when ``None``.
        cache_dir: Where fetched files are kept; where ``HF_HOME`` or ``HF_HUB_CACHE`` say when ``None``.
        local_files_only: Whether to take what is in the cache and ask nobody; ``HF_HUB_OFFLINE=1`` says so too.
        token: For models that are not public; ``None`` means ``HF_TOKEN`` or what ``hf auth login`` left, ``False``
            none.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.cache_dir is not None:
            as_path("cache_dir", self.cache_dir)
        kinds: dict[str, tuple[type, ...]] = {
            "revision": (str, type(None)),
            "local_files_only": (bool,),
            "token": (str, bool, type(None)),
        }
        for name, allowed in kinds.items():
            if not isinstance(getattr(self, name), allowed):
                raise InputError(
                    "this is of a wrong type",
                    where=name,
                    found=type(getattr(self, name)).__name__,
                    expected=" or ".join(kind.__name__ for kind in allowed),
                )
        token = self.token
        if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
            # The libraries below would print it.
            raise InputError(
                "this cannot be a token", where="token", expected="letters and digits, nothing around them"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Which files of a repository are wanted.

    Attributes:
        what: What they make, for messages.
        required: The file without which there is no such thing; fetched last, so that it stands for the rest.
        optional: Files that are read when they are there.
        weights: Whether weights are wanted, in whichever form they are read from.
    """

    what: str
    required: str
    optional: tuple[str, ...] = ()
    weights: bool = False


_TOKENIZER_FILES = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

MODEL = Part(what="model", required="config.json", weights=True)
TOKENIZER = Part(what="tokenizer", required="vocab.json", optional=("config.json", *_TOKENIZER_FILES))
WHOLE = Part(what="model", required="config.json", optional=("vocab.json", *_TOKENIZER_FILES), weights=True)
"""A model with its tokenizer, as far as the repository has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A repository of the hub at a revision.

    Attributes:
        names: Its ids; the hub is asked for the first, and the cache may have it under any.
        revision: A branch, a tag or a commit.
    """

    names: tuple[str, ...]
    revision: str

    @property
    def is_commit(self) -> bool:
        """Whether the revision can never mean something else."""
        return COMMIT.fullmatch(self.revision) is not None


def as_hub_model(name: str, revision: str | None = None) -> HubModel | None:
    """The repository that a name stands for, or ``None`` where it can only be a path.

    Args:
        name: ``owner/name`` or ``name``, perhaps with ``@revision``.
        revision: The revision, where the name does not say it.

    Raises:
        InputError: Two revisions, or one that cannot be.
    """
    model_id, at, given = name.partition("@")
    if not _ID.fullmatch(model_id) or "--" in model_id or ".." in model_id or model_id.endswith((".pth", ".git")):
        return None
    if len(model_id) > _LONGEST_ID:
        return None
    if at and revision is not None and given != revision:
        raise InputError(
            "two revisions of one model", where="revision", found=f"{revision!r}, and {given!r} in the name"
        )
    wanted = given if at else revision or _DEFAULT_REVISION
    if not _REVISION.fullmatch(wanted):
        raise InputError(
            "this cannot be a revision", where="revision", found=repr(wanted), expected="a branch, a tag or a commit"
        )
    bare = model_id.removeprefix(_OWNER)
    names = (_OWNER + bare, bare) if bare in _PUBLISHED else (model_id,)
    return HubModel(names=names, revision=wanted)


def fetch(model: HubModel, part: Part, options: HubOptions) -> Path:
    """The directory in the cache that holds a part of a repository, all of one commit; missing files are fetched.

    Args:
        model: The repository.
        part: What is wanted of it.
        options: How to fetch; ``revision`` is not looked at.

    Raises:
        CheckpointError: The index of its weights is wrong or hostile.
        HubError: The repository, its revision or a file is not there, not to be read, damaged, or not to be reached
            while the cache does not hold it either.
        DependencyError: The hub's library is not installed.
    """
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise DependencyError(
            "the library of the Hugging Face hub is not installed, or not whole",
            where=model.names[0],
            found=error,
            remedy="pip install huggingface_hub, or fetch the repository's files yourself and give their directory",
        ) from error
    from xlm.checkpoint.hub_download import Download
    from xlm.checkpoint.hub_errors import explain, is_passing

    offline = options.local_files_only or constants.HF_HUB_OFFLINE
    if offline or model.is_commit:
        directory = cached(model, part, options)
        if directory is not None:
            return directory
    if offline:
        raise HubError(
            f"there is no such {part.what} on this machine, and the hub may not be asked",
            where=f"{model.names[0]}, revision {model.revision}",
            found=f"neither a directory nor a file of that name, and not whole in {_cache_of(options)}",
            expected="the files from an earlier use, at the same revision",
            remedy="check the name; or use the model once without local_files_only and HF_HUB_OFFLINE; or set "
            "cache_dir or HF_HOME to a cache that holds it",
        )
    where = f"{constants.ENDPOINT}/{model.names[0]}, revision {model.revision}"
    try:
        return Download(model, part, options, where).directory()
    except XLMError:
        raise  # ours, and not from the library
    except Exception as error:
        # The library's generations raise errors of three HTTP libraries and of their own, some without a common base.
        explained = explain(error, where, cache=_cache_of(options))
        directory = cached(model, part, options) if is_passing(error) else None
        if directory is None:
            raise explained from error
        warn_caller(
            f"{where}: {explained.what} ({explained.found}); taken from the cache as it was last fetched, "
            f"commit {directory.name}"
        )
        return directory


def cached(model: HubModel, part: Part, options: HubOptions) -> Path | None:
    """The directory in the cache that holds a part of a repository as last fetched, or ``None``."""
    from huggingface_hub import try_to_load_from_cache

    for name in model.names:
        found = try_to_load_from_cache(name, part.required, _folder(options), model.revision)
        if isinstance(found, str) and not (part.weights and _lacks_weights(Path(found).parent)):
            return Path(found).parent
    return None


def _lacks_weights(directory: Path) -> bool:
    from xlm.checkpoint.layout_weights import first_form, is_index, read_weight_map  # imports torch

    form = first_form({entry.name for entry in directory.iterdir() if entry.is_file()})
    if form is None or not is_index(form):
        return form is None
    try:
        shards = set(read_weight_map(directory / form).values())
    except CheckpointError:
        return True  # it may be damaged; when it is fetched as it is, it is refused
    return not all((directory / shard).is_file() for shard in shards)


def _folder(options: HubOptions) -> Path | None:
    return None if options.cache_dir is None else Path(options.cache_dir).expanduser()


def _cache_of(options: HubOptions) -> Path:
    from huggingface_hub import constants

    return _folder(options) or Path(constants.HF_HUB_CACHE)
