"""The errors of the hub's library as ours: what happened, and what to do next."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from huggingface_hub import errors

from xlm.errors import HubError

_NOT_WRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
)
_LONGEST = 300
_ADVICE = ("Please make sure", "If you are trying", "For more")  # lines of the library's messages; ours say it too
_BEARER = re.compile(r"\bBearer .*", re.DOTALL)
_TOKEN = "give token=, set HF_TOKEN, or run `hf auth login`"
_CACHED = "what was fetched before opens with HF_HUB_OFFLINE=1"


def explain(error: Exception, where: str, *, cache: Path) -> HubError:
    """Our error for one that the library raised, to be raised from it.

    Args:
        error: Anything that came out of the library.
        where: What was asked for.
        cache: Where files are kept.
    """
    what, remedy = _what_and_remedy(_root(error), cache)
    return HubError(
        what,
        where=where,
        found=_text(_root(error)),
        expected="a directory, a file, or an id on the hub that can be read",
        remedy=remedy,
    )


def shown(text: object) -> str:
    """What a server sent, on one line and short: nothing that moves a cursor reaches the terminal."""
    printable = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(printable.split())[:_LONGEST]


def is_passing(error: Exception) -> bool:
    """Whether it was the network or the hub that failed, so that what the cache holds may stand in."""
    root = _root(error)
    status = _status(root)
    if status is not None:
        return status in (408, 429) or status >= 500
    return not isinstance(root, (errors.HFValidationError, errors.LocalTokenNotFoundError)) and not _is_ours(root)


def _what_and_remedy(error: BaseException, cache: Path) -> tuple[str, str]:
    status = _status(error)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            "the hub does not let you read this model",
            f"accept its terms on its page, where it asks for that, and then {_TOKEN}; the token must be allowed to "
            "read it",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            "there is no such model: neither a directory, nor a file, nor on the hub, where it may be private",
            f"check the name; if the model is private or asks for an account, {_TOKEN}; a token that has expired "
            "shows like this too",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the model has no such revision", "give a branch, a tag or the whole hash of a commit of the repository"
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return "the hub does not have a file that it lists", "try again; the repository may just have changed"
    if status == 429:
        return "the hub takes no more requests for now", f"wait some minutes; or {_TOKEN}, which allows more of them"
    if status is not None and status >= 500:
        return "the hub is out of order", f"try again later; {_CACHED}"
    if status is not None:
        return "the hub refuses the request", "check the name and the revision, and HF_ENDPOINT if it is set"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "there is no token on this machine", _TOKEN
    if isinstance(error, errors.HFValidationError):
        return "this cannot be a model's id on the hub", "check the name; an id is owner/name"
    if "xet" in f"{type(error).__module__}.{type(error).__name__}".lower():
        return "the download by the xet protocol failed", "set HF_HUB_DISABLE_XET=1 to download by HTTP, and try again"
    if _is_ours(error):
        return (
            "a fetched file could not be written",
            f"free some space, or set cache_dir or HF_HOME to a directory that can be written; now it is {cache}",
        )
    if type(error) is OSError:  # the library's own, when fewer or more bytes came than it was told
        return "a file did not arrive whole", "try again; if it stays so, a proxy may be cutting large files"
    if isinstance(error, (errors.FileMetadataError, ValueError, TypeError, KeyError, AttributeError)):
        return (
            "what answered is not the hub",
            f"check HF_ENDPOINT if it is set, proxies, and whether this network asks for a log-in page; {_CACHED}",
        )
    return (
        "the hub cannot be reached",
        f"check the network, proxies (HTTPS_PROXY) and HF_ENDPOINT if it is set, and try again; {_CACHED}",
    )


def _root(error: Exception) -> BaseException:
    """What lies under the library's ``cannot find it locally either``."""
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def _is_ours(error: BaseException) -> bool:
    """Whether this machine's disk is at fault."""
    return isinstance(error, OSError) and error.errno in _NOT_WRITABLE


def _text(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if not line.startswith(_ADVICE)]
    status = _status(error)
    kind = type(error).__name__ if status is None else f"{type(error).__name__}, status {status}"
    # HTTP libraries print a header that cannot be sent, that of the token among them.
    return shown(f"{kind}: {_BEARER.sub('Bearer …', ' '.join(lines))}")
