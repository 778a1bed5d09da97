"""Files and directories on this machine, in object stores, and wherever else Arrow or fsspec can open them.

A name with ``://``, such as ``s3://bucket/texts``, is an address; any other name is a path on this machine.
``pyarrow.fs`` opens the address if it knows the scheme, otherwise fsspec does. No object keeps a file system open, so
the objects of this module can be sent to workers.

An address that ``pyarrow.fs`` opens may end in options, such as ``?region=eu-west-1``. The rest of the address is
taken literally: ``%20`` is not a space. Names listed in a directory are never parsed as addresses, so they may hold any
character.
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from pyarrow import fs

from xlm._io.atomic import flush_to_disk
from xlm._io.dependencies import needing
from xlm.corpus.files import InputFile, LocalFile
from xlm.errors import InputError, WriteError

_WILDCARDS = frozenset("*?[")
_HIDDEN = (".", "_")
_READ_BUFFER = 1 << 20
_COPY_BUFFER = 1 << 22
_READ_THREADS = 16
_TEMPORARY = "_temporary"
_STORES = tuple(getattr(fs, name) for name in ("S3FileSystem", "GcsFileSystem", "AzureFileSystem") if hasattr(fs, name))

_Entry = tuple[str, int | None]
"""A path in a file system, and its size in bytes; ``None`` for a directory."""


def _is_address(name: str) -> bool:
    return "://" in name


def absolute(name: str) -> str:
    """Make a path absolute, because workers run in other directories; return an address unchanged."""
    return name if _is_address(name) else str(Path(name).absolute())


def file_system(name: str) -> tuple[Any, str]:
    """Return the ``pyarrow.fs.FileSystem`` of an address or path, and the path inside that file system.

    Raises:
        InputError: Neither Arrow nor fsspec can open the address.
        DependencyError: The address needs fsspec, which is not installed.
    """
    if not _is_address(name):
        return fs.LocalFileSystem(), absolute(name)
    scheme, _, rest = name.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), _local_path(rest)
    literal, question, options = rest.partition("?")
    store, _, path = literal.partition("/")
    try:
        # Keep the path away from the URI parser, in which # and % have a special meaning.
        system, root = fs.FileSystem.from_uri(f"{scheme}://{store}/{question}{options}")
        return system, _join(root, path.rstrip("/")) or root
    except (OSError, ValueError) as error:
        reason = error
    with needing("fsspec, which could open this address, is not installed", where=name, install="fsspec"):
        import fsspec
    try:
        # Turn caches off, because other processes write to the same directories at the same time.
        system, path = fsspec.core.url_to_fs(name, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(
            "the address cannot be opened",
            where=name,
            found=f"{error}; {reason}",
            expected="s3://, gs://, …; options follow a ?, such as ?region=eu-west-1",
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _local_path(rest: str) -> str:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise InputError("the address names another machine", where=f"file://{rest}", expected="file:///…")
    return path.rstrip("/") or "/"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An ``InputFile`` that Arrow or fsspec opens.

    Attributes:
        name: Name of the file in results.
        address: Address from which the file system can be opened.
        location: Path of the file in that file system.
        bytes: Size of the file.
    """

    name: str
    address: str
    location: str
    bytes: int

    @property
    def path(self) -> PurePath:
        """See ``InputFile``."""
        return PurePosixPath(self.location)

    def size(self) -> int:
        """See ``InputFile``."""
        return self.bytes

    def open(self) -> AbstractContextManager[BinaryIO]:
        """See ``InputFile``."""
        file: Any = self.open_parquet()
        return closing(io.BufferedReader(file, _READ_BUFFER))

    def open_parquet(self) -> AbstractContextManager[Any]:
        """See ``InputFile``."""
        system, _ = file_system(self.address)
        return system.open_input_file(os.fsencode(self.location))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SharedFile(LocalFile):
    """A file that every machine sees under the same absolute path.

    Attributes:
        original: The name that the user gave, which may be relative.
    """

    original: str

    @property
    def name(self) -> str:
        """See ``InputFile``."""
        return _printable(self.original)


def input_files(names: Iterable[str], *, output: str | None = None) -> list[InputFile]:
    """Return the input files that names stand for.

    A name is a file, a directory with all files below it, or a pattern with ``*``, ``?`` or ``[]``. The files of a
    directory or pattern are sorted by name. Names that begin with a dot or an underscore are omitted, as in Spark.

    Args:
        names: Paths or addresses.
        output: Path or address of the output, which may lie below an input directory; its files are omitted.

    Raises:
        InputError: A name matches no file, cannot be listed, or is inside the output.
    """
    return [file for name in names for file in _files_of(name, output)]


def _files_of(name: str, output: str | None) -> list[InputFile]:
    system, path = file_system(name)
    remote = _is_address(name)
    # Options belong to the address, not to the names of its files.
    shown = (name if "?" in path else name.partition("?")[0]) if remote else str(PurePath(name))
    shown_parts = shown.rstrip("/").split("/")
    try:
        pattern_parts, entries = _matches(system, path, most=len(shown_parts))
    except (OSError, UnicodeError) as error:
        raise InputError("the inputs cannot be listed", where="inputs", found=_printable(f"{name}: {error}")) from error
    shown_base = shown_parts[: -pattern_parts or None]
    base = "/".join(path.split("/")[: -pattern_parts or None])
    excluded = _relative_output(output, "/".join(shown_base) if remote else base)
    files: list[InputFile] = []
    for file, size in entries:
        rest = file[len(base) :].strip("/")
        if excluded and rest.startswith(excluded):
            continue
        file_name = "/".join([*shown_base, rest] if rest else shown_base)
        if remote:
            files.append(RemoteFile(_printable(file_name), name, file, size))
        else:
            files.append(SharedFile(Path(file), str(PurePath(file_name))))
    if not files:
        raise InputError("no such file, and no directory with files", where="inputs", found=_printable(name))
    return files


def _relative_output(output: str | None, base: str) -> str | None:
    """Return the path of the output relative to an input directory, or ``None`` if the output is not below it.

    Raises:
        InputError: The input directory is inside the output.
    """
    if output is None:
        return None
    output_path, base_path = f"{_canonical(output)}/", f"{_canonical(base or '/').rstrip('/')}/"
    if base_path.startswith(output_path):
        raise InputError(
            "the output directory holds an input",
            where=_printable(output),
            found=_printable(base),
            remedy="write to another directory",
        )
    return output_path.removeprefix(base_path) if output_path.startswith(base_path) else None


def _canonical(name: str) -> str:
    """Normalise a path or address, so that names of files below a directory begin with the directory's name."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "file":
        return "/".join([f"{scheme}:/", *filter(None, rest.partition("?")[0].split("/"))])
    return os.path.realpath(_local_path(rest) if separator else name)


def _matches(system: Any, path: str, *, most: int) -> tuple[int, list[tuple[str, int]]]:
    """Return how many parts at the end of a path form a pattern (at most ``most``), and the files that match it."""
    entry = _entry(system, path)
    if entry is not None:
        entries = [entry] if entry[1] is not None else list(_list(system, path, recursive=True))
        return 0, _sorted_files(entries)
    parts = path.split("/")
    count = max((back for back in range(1, min(most, len(parts)) + 1) if _WILDCARDS & set(parts[-back])), default=0)
    if not count:
        return 0, []
    entries = [("/".join(parts[:-count]) or "/", None)]
    for pattern in parts[-count:]:
        entries = [
            child
            for directory, size in entries
            if size is None
            for child in _list(system, directory, recursive=False)
            if fnmatchcase(child[0].rpartition("/")[2], pattern)
        ]
    return count, _sorted_files(entries)


def _sorted_files(entries: Iterable[_Entry]) -> list[tuple[str, int]]:
    return sorted((path, size) for path, size in entries if size is not None)


def _entry(system: Any, path: str) -> _Entry | None:
    if isinstance(system, fs.LocalFileSystem):
        local = Path(path)
        return (path, None) if local.is_dir() else (path, local.stat().st_size) if local.is_file() else None
    info = system.get_file_info(path)
    return {fs.FileType.Directory: (path, None), fs.FileType.File: (path, info.size or 0)}.get(info.type)


def _list(system: Any, directory: str, *, recursive: bool) -> Iterator[_Entry]:
    """Yield the entries of a directory that are not hidden."""
    if isinstance(system, fs.LocalFileSystem):
        yield from _list_local(directory, recursive=recursive)
        return
    for info in system.get_file_info(fs.FileSelector(directory, recursive=recursive, allow_not_found=True)):
        relative = info.path[len(directory) :].strip("/")
        if any(part.startswith(_HIDDEN) for part in relative.split("/")):
            continue
        if info.type == fs.FileType.Directory:
            yield info.path, None
        elif info.type == fs.FileType.File:
            yield info.path, info.size or 0


def _list_local(directory: str, *, recursive: bool) -> Iterator[_Entry]:
    # Arrow cannot list names that are not UTF-8.
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_HIDDEN):
                continue
            if entry.is_dir():
                yield entry.path, None
                if recursive:
                    yield from _list_local(entry.path, recursive=True)
            elif entry.is_file() or entry.is_symlink():
                # The size of a broken link is 0; reading the link reports it as damaged.
                yield entry.path, LocalFile(Path(entry.path)).size()


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Directory:
    """Directory in which each new file appears whole or not at all.

    On a file system with directories, a file is written below ``_temporary`` and then moved. In an object store, an
    object only becomes visible when it is complete.

    Attributes:
        address: Path or address of the directory.
        writer: Random identifier of this writer; copies sent to other machines keep it.

    Raises:
        WriteError: The directory cannot be read or written; raised by every method but ``remove_unfinished``.
    """

    address: str
    writer: str = field(default_factory=lambda: secrets.token_hex(8))

    def names(self, below: str = "") -> dict[str, int]:
        """Return the sizes in bytes of the files directly in the directory, or in a directory below it, by name."""
        with self._opened() as (system, path):
            infos = system.get_file_info(fs.FileSelector(_join(path, below), allow_not_found=True))
        return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}

    def read(self, name: str) -> bytes | None:
        """Return the contents of a file; ``None`` if there is no such file."""
        with self._opened() as (system, path):
            return _read(system, _join(path, name))

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the contents of files, in order, reading several at a time; ``None`` for a missing file."""
        with self._opened() as (system, path), ThreadPoolExecutor(_READ_THREADS) as threads:
            yield from threads.map(lambda name: _read(system, _join(path, name)), names)

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a small file."""
        with self._replacing(name) as file:
            file.write(data)

    def copy(self, source: Path, name: str) -> int:
        """Write or replace a file with the contents of a local file, and return its size in bytes."""
        copied = 0
        with self._replacing(name) as target, source.open("rb") as file:
            while data := file.read(_COPY_BUFFER):
                target.write(data)
                copied += len(data)
            if copied != source.stat().st_size:
                raise WriteError("a file changed while it was copied", where=source, found=f"{copied:,} bytes")
        return copied

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._opened() as (system, path), suppress(FileNotFoundError):
            system.delete_file(_join(path, name))

    def remove_unfinished(self, *, of_all: bool = False) -> None:
        """Remove unfinished files that killed workers left below ``_temporary``. Errors are ignored.

        Args:
            of_all: Whether to remove the files of other writers too.
        """
        system, path = file_system(self.address)
        everything, own = _join(path, _TEMPORARY), _join(path, _TEMPORARY, self.writer)
        with suppress(OSError):
            system.delete_dir(everything if of_all else own)
        with suppress(OSError):
            if not system.get_file_info(fs.FileSelector(everything)):
                system.delete_dir(everything)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Any]:
        with self._opened() as (system, path):
            target = _join(path, name)
            if isinstance(system, _STORES):
                with _object(system, target) as file:
                    yield file
                return
            own = _join(path, _TEMPORARY, self.writer)
            temporary = _join(own, secrets.token_hex(8))
            system.create_dir(own, recursive=True)
            system.create_dir(str(PurePosixPath(target).parent), recursive=True)
            try:
                with system.open_output_stream(temporary) as file:
                    yield file
                if isinstance(system, fs.LocalFileSystem):
                    flush_to_disk(Path(temporary))
                system.move(temporary, target)
            except BaseException:
                with suppress(OSError):
                    system.delete_file(temporary)
                raise

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """Yield the file system and the directory's path in it; turn I/O errors into ``WriteError``."""
        system, path = file_system(self.address)
        try:
            yield system, path
        except WriteError:
            raise
        except (OSError, UnicodeError) as error:
            raise WriteError(
                "the output directory cannot be used",
                where=ascii(self.address)[1:-1] if isinstance(error, UnicodeError) else self.address,
                found=str(error),
                remedy="check the address, its permissions and its free space",
            ) from error


def _read(system: Any, path: str) -> bytes | None:
    try:
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


@contextmanager
def _object(system: Any, target: str) -> Iterator[Any]:
    """Yield a stream into an object, and delete the object if the block raises.

    Closing or dropping the stream always publishes the object, even if its data is incomplete.
    """
    file = system.open_output_stream(target)
    try:
        yield file
        file.close()
    except BaseException:
        with suppress(Exception):
            file.close()
        with suppress(Exception):
            system.delete_file(target)
        raise


def _join(path: str, *names: str) -> str:
    return "/".join([path.rstrip("/"), *filter(None, names)])
