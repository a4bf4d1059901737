"""Files below a place, a local path or an URL such as s3://bucket/prefix. Knows no formats and no annotation."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.errors import ConfigError, DataError, one_line
from agent.files import write_file

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem


class File(NamedTuple):
    """A file of a place: its path, and what changes when its content does."""

    path: str
    num_bytes: int
    modified_ns: int


class StorageLocation:
    """A directory or a file.

    Args:
        url: A path, or `s3://bucket/prefix` with what pyarrow takes behind it (`?endpoint_override=host:9000&scheme=http`).
    """

    def __init__(self, url: str) -> None:
        self.url = url if "://" in url else str(Path(url).expanduser().absolute())

    def __reduce__(self) -> tuple[type[StorageLocation], tuple[str]]:
        return StorageLocation, (self.url,)

    def files(self) -> list[File]:
        """The file, or all files of the directory and those below, by path; hidden ones (`.x`, `_x`) are left out.

        Raises:
            DataError: There is nothing, or it cannot be read.
        """
        from pyarrow.fs import FileSelector, FileType

        with self._reading():
            info = self._filesystem.get_file_info(self.root)
            if info.type == FileType.File:
                return [_described(info)]
            found = self._filesystem.get_file_info(FileSelector(self.root, recursive=True, allow_not_found=True))
        visible = [item for item in found if item.type == FileType.File and not _is_hidden(item.path, self.root)]
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
            return self._filesystem.open_input_file(path)

    @contextmanager
    def lines(self, path: str, start: int = 0) -> Iterator[io.BufferedReader]:
        """Opens one of `files` to be read line by line.

        Raises:
            DataError: It cannot be read.
        """
        with self._reading(), self._filesystem.open_input_file(path) as raw:
            raw.seek(start)
            yield io.BufferedReader(raw, 1 << 20)

    def names(self, directory: str = "") -> set[str]:
        """Names of what lies directly in a directory below this place, none if it is absent.

        Raises:
            ConfigError: It cannot be read.
        """
        from pyarrow.fs import FileSelector

        with self._writing():
            infos = self._filesystem.get_file_info(FileSelector(self._below(directory), allow_not_found=True))
        return {info.base_name for info in infos}

    def read(self, name: str) -> bytes | None:
        """The content of a file below this place; None if there is none.

        Raises:
            ConfigError: It cannot be read.
        """
        try:
            with self._writing(), self._filesystem.open_input_stream(self._below(name)) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file below this place: whole, or not at all.

        Raises:
            ConfigError: It cannot be written.
        """
        with self._writing():
            if self.is_local:
                write_file(Path(self.root) / name, content, durable=True)
                return
            with self._filesystem.open_output_stream(self._below(name)) as stream:  # an object appears when it is whole
                stream.write(content)

    def remove(self, directory: str) -> None:
        """Removes a directory below this place, if it is there."""
        from pyarrow.fs import FileType

        with self._writing():
            if self._filesystem.get_file_info(self._below(directory)).type != FileType.NotFound:
                self._filesystem.delete_dir(self._below(directory))

    def remove_file(self, name: str) -> None:
        """Removes a file below this place."""
        with self._writing():
            self._filesystem.delete_file(self._below(name))

    def holds(self, other: StorageLocation) -> bool:
        """Whether another place lies in this one, or is it."""
        same = self._filesystem.equals(other._filesystem)
        return bool(same) and f"{other.root}/".startswith(f"{self.root}/")

    @property
    def root(self) -> str:
        """Where it lies in its file system: a path, or bucket/prefix."""
        return self._opened[1]

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return str(self._filesystem.type_name) == "local"

    @property
    def _filesystem(self) -> FileSystem:
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem, LocalFileSystem

        if "://" not in self.url:
            return LocalFileSystem(), self.url.rstrip("/") or "/"
        try:
            filesystem, root = FileSystem.from_uri(self.url)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.url} is no place for files ({_brief(error)})", allowed="a path or s3://bucket/prefix"
            ) from None
        return filesystem, root.rstrip("/")

    def _below(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"input {self.url} cannot be read ({_brief(error)})",
                remedy="check the path, its permissions and the network",
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConfigError(
                f"output {self.url} cannot be used ({_brief(error)})",
                allowed="a directory with room that may be written, or s3://bucket/prefix",
                remedy="free space or mend the permissions and give the same command again: it goes on where it was",
            ) from None


def _described(info: FileInfo) -> File:
    return File(info.path, int(info.size), int(info.mtime_ns or 0))


def _is_hidden(path: str, root: str) -> bool:
    return any(part[:1] in "._" for part in path[len(root) :].strip("/").split("/"))


def _brief(error: Exception) -> str:
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
