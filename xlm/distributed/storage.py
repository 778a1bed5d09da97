"""Directories and file systems by address: of this machine, of an object store, of whatever Arrow or fsspec opens.

An address with ``://`` in it, such as ``s3://bucket/texts``, is opened by ``pyarrow.fs`` where that knows its kind,
else by fsspec; any other is a path of this machine. Nothing that is opened is kept, so that all can be sent to workers.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from xlm.errors import DependencyError, InputError, WriteError
from xlm.scoring.rows import import_pyarrow

_TEMPORARY = "_temporary"
_COPIED_AT_ONCE = 1 << 22


def is_address(name: str) -> bool:
    """Whether this is an address, and no path of this machine."""
    return "://" in name


def absolute(name: str) -> str:
    """An address, or the whole path of a path: other machines and processes are in other directories."""
    return name if is_address(name) else str(Path(name).absolute())


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
    try:
        return fs.FileSystem.from_uri(address)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        reason = error
    try:
        import fsspec
    except ImportError as error:
        raise DependencyError(
            "no library is installed that opens such addresses", where=address, remedy="pip install fsspec"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(
            "the address cannot be opened", where=address, found=f"{error}; {reason}", expected="s3://, gs://, …"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory to write files into, each of which is there whole or not at all.

    On a file system of directories a file is written below ``_temporary`` and moved; an object store shows an object
    only when all of it has come.

    Attributes:
        address: Path or address.
    """

    address: str

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
            try:
                with system.open_input_file(_joined(path, name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

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
        with self._replacing(name) as target, source.open("rb") as file:
            while data := file.read(_COPIED_AT_ONCE):
                target.write(data)
        return source.stat().st_size

    def remove(self, name: str) -> None:
        """Removes a file, if there is one.

        Raises:
            WriteError: It cannot be removed.
        """
        system, path = file_system(self.address)
        with self._errors(), suppress(FileNotFoundError):
            system.delete_file(_joined(path, name))

    def remove_unfinished(self) -> None:
        """Removes what killed workers have left below ``_temporary``; as far as that can be done."""
        system, path = file_system(self.address)
        with suppress(OSError):
            system.delete_dir(_joined(path, _TEMPORARY))

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Any]:
        system, path = file_system(self.address)
        target = _joined(path, name)
        with self._errors():
            if _is_object_store(system):
                with system.open_output_stream(target) as file:
                    yield file
                return
            temporary = _joined(path, _TEMPORARY, secrets.token_hex(8))
            system.create_dir(_joined(path, _TEMPORARY), recursive=True)
            system.create_dir(str(PurePosixPath(target).parent), recursive=True)
            try:
                with system.open_output_stream(temporary) as file:
                    yield file
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
        except OSError as error:
            raise WriteError(
                "the output directory cannot be used",
                where=self.address,
                found=str(error),
                remedy="check the address, who may write there, and that there is room",
            ) from error


def _joined(path: str, *names: str) -> str:
    return "/".join([path.rstrip("/"), *filter(None, names)])


def _is_object_store(system: Any) -> bool:
    from pyarrow import fs

    stores = [getattr(fs, name, None) for name in ("S3FileSystem", "GcsFileSystem", "AzureFileSystem")]
    return isinstance(system, tuple(filter(None, stores)))
