"""Reads and writes the files of an annotation: a local path or an S3 prefix, with errors for users."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.errors import ConfigError, DataError
from agent.files import write_file
from cluster.file_system import Location, storage_errors

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo


class File(NamedTuple):
    """A file: its path, and what changes when its content does."""

    path: str
    num_bytes: int
    modified_ns: int


class StorageLocation:
    """A directory or a file.

    Args:
        url: See `cluster.file_system.Location`.
    """

    def __init__(self, url: str) -> None:
        self._location = Location(url)

    @property
    def url(self) -> str:
        """Where it lies."""
        return self._location.url

    def files(self) -> list[File]:
        """The file, or all files of the directory and those below, by path; hidden ones (`.x`, `_x`) are left out.

        Raises:
            DataError: There is nothing, or it cannot be read.
        """
        from pyarrow.fs import FileType

        with self._reading():
            info = self._location.filesystem.get_file_info(self._location.root)
            if info.type == FileType.File:
                return [_described(info)]
            found = self._location.list(recursive=True)
        root = self._location.root
        visible = [item for item in found if item.type == FileType.File and not _is_hidden(item.path, root)]
        if not visible:
            what = "does not exist" if info.type == FileType.NotFound else "holds no files"
            raise DataError(f"input {self.url} {what}", remedy="give a file, a directory with files, or an s3:// URL")
        return sorted(map(_described, visible))

    def open(self, path: str) -> Any:
        """Opens one of `files` for random reads, as pyarrow's NativeFile.

        Raises:
            DataError: It cannot be read.
        """
        with self._reading():
            return self._location.filesystem.open_input_file(path)

    @contextmanager
    def lines(self, path: str, start: int = 0) -> Iterator[io.BufferedReader]:
        """Opens one of `files` to be read line by line.

        Raises:
            DataError: It cannot be read.
        """
        with self._reading(), self._location.filesystem.open_input_file(path) as raw:
            raw.seek(start)
            yield io.BufferedReader(raw, 1 << 20)

    def names(self, directory: str = "") -> set[str]:
        """Names of what lies directly in a directory below this one, none if it is absent.

        Raises:
            ConfigError: It cannot be read.
        """
        with self._writing():
            return {info.base_name for info in self._location.list(directory)}

    def read(self, name: str) -> bytes | None:
        """The content of a file below this directory; None if there is none.

        Raises:
            ConfigError: It cannot be read.
        """
        with self._writing():
            try:
                return self._location.read(name)
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file below this directory: whole, or not at all.

        Raises:
            ConfigError: It cannot be written.
        """
        with self._writing():
            if directory := self._location.local_path:
                write_file(directory / name, content, durable=True)
                return
            path = self._location.path(name)
            with self._location.filesystem.open_output_stream(path) as stream:  # an object appears when it is whole
                stream.write(content)

    def remove(self, directory: str) -> None:
        """Removes a directory below this one, if it is there."""
        with self._writing():
            self._location.delete_directory(directory)

    def remove_file(self, name: str) -> None:
        """Removes a file below this directory."""
        with self._writing():
            self._location.delete_file(name)

    def holds(self, other: StorageLocation) -> bool:
        """Whether another location lies in this one, or is it."""
        with self._writing(), other._writing():
            same = self._location.filesystem.equals(other._location.filesystem)
        return bool(same) and f"{other._location.root}/".startswith(f"{self._location.root}/")

    def _reading(self) -> AbstractContextManager[None]:
        def make(reason: str) -> DataError:
            remedy = "check the path, its permissions and the network"
            return DataError(f"input {self.url} cannot be read ({reason})", remedy=remedy)

        return storage_errors(make)

    def _writing(self) -> AbstractContextManager[None]:
        def make(reason: str) -> ConfigError:
            return ConfigError(
                f"output {self.url} cannot be used ({reason})",
                allowed="a directory with room that may be written, or s3://bucket/prefix",
                remedy="free space or mend the permissions and give the same command again: it goes on where it was",
            )

        return storage_errors(make)


def _described(info: FileInfo) -> File:
    return File(info.path, int(info.size), int(info.mtime_ns or 0))


def _is_hidden(path: str, root: str) -> bool:
    return any(part[:1] in "._" for part in path[len(root) :].strip("/").split("/"))
