"""Directories and file systems by address: of this machine, of an object store, of whatever Arrow or fsspec opens.

An address with ``://`` in it, such as ``s3://bucket/texts``, is opened by ``pyarrow.fs`` where that knows its kind,
else by fsspec; any other is a path of this machine. Nothing that is opened is kept, so that all can be sent to workers.

An address that ``pyarrow.fs`` opens may end in options, ``?region=eu-west-1``. What stands before is taken as it is:
``%20`` is no space, as it is none in the names that stores list.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xlm._io.atomic import flush_to_disk
from xlm.corpus.formats import import_pyarrow
from xlm.errors import DependencyError, InputError, WriteError

_TEMPORARY = "_temporary"
_COPIED_AT_ONCE = 1 << 22
_READ_AT_ONCE = 16


def is_address(name: str) -> bool:
    """Whether this is an address, and no path of this machine."""
    return "://" in name


def absolute(name: str) -> str:
    """An address, or the whole path of a path: other machines and processes are in other directories."""
    return name if is_address(name) else str(Path(name).absolute())


def place(name: str) -> str:
    """Where a path or an address leads, in a form that begins with the same characters for all that is below it."""
    scheme, separator, rest = name.partition("://")
    if separator and scheme != "file":
        return "/".join([f"{scheme}:/", *filter(None, rest.partition("?")[0].split("/"))])
    return os.path.realpath(_of_file(rest) if separator else name)


def file_system(address: str) -> tuple[Any, str]:
    """The ``pyarrow.fs.FileSystem`` of an address or path, and the path in it.

    Raises:
        InputError: There is nothing that opens such addresses, or it refuses.
        DependencyError: pyarrow is not installed.
    """
    import_pyarrow()
    from pyarrow import fs

    if not is_address(address):
        return fs.LocalFileSystem(), absolute(address)
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), _of_file(rest)
    plain, question, options = rest.partition("?")
    store, _, path = plain.partition("/")
    try:
        # No name of a file goes through the parser of URIs, where # and % mean something.
        system, root = fs.FileSystem.from_uri(f"{scheme}://{store}/{question}{options}")
        return system, _joined(root, path.rstrip("/")) or root
    except (OSError, ValueError) as error:
        reason = error
    try:
        import fsspec
    except ImportError as error:
        raise DependencyError(
            "no library is installed that opens such addresses", where=address, remedy="pip install fsspec"
        ) from error
    try:
        # Others write there too: what was listed once is not what is there.
        system, path = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(
            "the address cannot be opened",
            where=address,
            found=f"{error}; {reason}",
            expected="s3://, gs://, …; what follows a ? are options, such as region=eu-west-1",
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _of_file(rest: str) -> str:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise InputError("the address names no file of this machine", where=f"file://{rest}", expected="file:///…")
    return path.rstrip("/") or "/"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory to write files into, each of which is there whole or not at all.

    On a file system of directories a file is written below ``_temporary`` and moved; an object store shows an object
    only when all of it has come.

    Attributes:
        address: Path or address.
        writer: Tells those who write there apart; one that was sent to another machine still has it.
    """

    address: str
    writer: str = field(default_factory=lambda: secrets.token_hex(8))

    def names(self, below: str = "") -> dict[str, int]:
        """The files that are directly in it, or in a directory of it, with their bytes.

        Raises:
            WriteError: It cannot be listed.
        """
        from pyarrow import fs

        system, path = file_system(self.address)
        with self._errors():
            infos = system.get_file_info(fs.FileSelector(_joined(path, below), allow_not_found=True))
        return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}

    def read(self, name: str) -> bytes | None:
        """What a file holds; ``None`` when there is none.

        Raises:
            WriteError: It cannot be read.
        """
        system, path = file_system(self.address)
        with self._errors():
            return _read(system, _joined(path, name))

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """What each of some files holds, in their order; several are read at a time.

        Raises:
            WriteError: One cannot be read.
        """
        system, path = file_system(self.address)
        with self._errors(), ThreadPoolExecutor(_READ_AT_ONCE) as threads:
            yield from threads.map(lambda name: _read(system, _joined(path, name)), names)

    def write(self, name: str, data: bytes) -> None:
        """Makes or replaces a small file.

        Raises:
            WriteError: It cannot be written.
        """
        with self._replacing(name) as file:
            file.write(data)

    def copy(self, source: Path, name: str) -> int:
        """Makes or replaces a file with what another of this machine holds, and returns its bytes.

        Raises:
            WriteError: It cannot be written.
        """
        copied = 0
        with self._replacing(name) as target, source.open("rb") as file:
            while data := file.read(_COPIED_AT_ONCE):
                target.write(data)
                copied += len(data)
            if copied != source.stat().st_size:
                raise WriteError("a file changed while it was copied", where=source, found=f"{copied:,} bytes")
        return copied

    def remove(self, name: str) -> None:
        """Removes a file, if there is one.

        Raises:
            WriteError: It cannot be removed.
        """
        system, path = file_system(self.address)
        with self._errors(), suppress(FileNotFoundError):
            system.delete_file(_joined(path, name))

    def remove_unfinished(self, *, of_all: bool = False) -> None:
        """Removes what killed workers have left below ``_temporary``; as far as that can be done.

        Args:
            of_all: Also that of other writers.
        """
        from pyarrow import fs

        system, path = file_system(self.address)
        everything, own = _joined(path, _TEMPORARY), _joined(path, _TEMPORARY, self.writer)
        with suppress(OSError):
            system.delete_dir(everything if of_all else own)
        with suppress(OSError):
            if not system.get_file_info(fs.FileSelector(everything)):
                system.delete_dir(everything)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Any]:
        from pyarrow import fs

        system, path = file_system(self.address)
        target = _joined(path, name)
        with self._errors():
            if _is_object_store(system):
                with _object(system, target) as file:
                    yield file
                return
            own = _joined(path, _TEMPORARY, self.writer)
            temporary = _joined(own, secrets.token_hex(8))
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
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except WriteError:
            raise
        except (OSError, UnicodeError) as error:
            raise WriteError(
                "the output directory cannot be used",
                where=ascii(self.address)[1:-1] if isinstance(error, UnicodeError) else self.address,
                found=str(error),
                remedy="check the address, who may write there, and that there is room",
            ) from error


def _read(system: Any, path: str) -> bytes | None:
    try:
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None


@contextmanager
def _object(system: Any, target: str) -> Iterator[Any]:
    """A stream into an object, which is removed when the block raises.

    Closing the stream is its only end, also where it is not closed but forgotten, and gives the object its name,
    whatever has come by then.
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


def _joined(path: str, *names: str) -> str:
    return "/".join([path.rstrip("/"), *filter(None, names)])


def _is_object_store(system: Any) -> bool:
    from pyarrow import fs

    stores = [getattr(fs, name, None) for name in ("S3FileSystem", "GcsFileSystem", "AzureFileSystem")]
    return isinstance(system, tuple(filter(None, stores)))
