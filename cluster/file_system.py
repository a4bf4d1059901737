"""Files of a directory or an S3 prefix, through pyarrow's file systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from agent.errors import AgentError, one_line

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem, FileType


class Location:
    """A directory or a prefix of an object store. Methods raise OSError or ValueError; see `storage_errors`.

    Args:
        url: A path (made absolute, since workers have another working directory), or `s3://bucket/prefix` with pyarrow's
            options (`?endpoint_override=host:9000&scheme=http`).
    """

    def __init__(self, url: str) -> None:
        self.url = url if is_remote(url) else str(Path(url).expanduser().absolute())

    def __reduce__(self) -> tuple[type[Location], tuple[str]]:
        return type(self), (self.url,)

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem, LocalFileSystem

        if not is_remote(self.url):
            return LocalFileSystem(), self.url
        filesystem, root = FileSystem.from_uri(self.url)
        return filesystem, root.rstrip("/")

    @property
    def filesystem(self) -> FileSystem:
        """Pyarrow's file system."""
        return self._opened[0]

    @property
    def root(self) -> str:
        """The path in the file system: a local path, or bucket/prefix."""
        return self._opened[1]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine, if it is local."""
        return Path(self.root) if str(self.filesystem.type_name) == "local" else None

    def path(self, name: str = "") -> str:
        """The path of a file or directory below the location; of the location itself without a name."""
        return f"{self.root.rstrip('/')}/{name}".rstrip("/") or "/"

    def type_of(self, name: str = "") -> FileType:
        """Whether a name is a file, a directory or not found."""
        return self.filesystem.get_file_info(self.path(name)).type

    def is_file(self, name: str) -> bool:
        """Whether a file is there."""
        from pyarrow.fs import FileType

        return bool(self.type_of(name) == FileType.File)

    def list(self, name: str = "", *, recursive: bool = False) -> list[FileInfo]:
        """Entries of a directory, none if it is absent."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.path(name), recursive=recursive, allow_not_found=True)
        entries: list[FileInfo] = self.filesystem.get_file_info(selector)
        return entries

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            content: bytes = stream.read()
            return content

    def upload(self, file: Path, name: str) -> None:
        """Copies a local file; its directory is made.

        Not by pyarrow's copy_files: it reports nothing when S3 refuses an upload at its end, and the file is missing (26.0).
        """
        path = self.path(name)
        self.filesystem.create_dir(path.rpartition("/")[0])
        with file.open("rb") as source, self.filesystem.open_output_stream(path) as stream:
            stream.upload(source)

    def download(self, directory: Path, name: str = "") -> None:
        """Copies a directory with all that lies below it to a local one."""
        from pyarrow.fs import LocalFileSystem, copy_files

        directory.mkdir(parents=True, exist_ok=True)
        copy_files(self.path(name), str(directory), self.filesystem, LocalFileSystem())

    def delete_file(self, name: str) -> None:
        """Deletes a file."""
        self.filesystem.delete_file(self.path(name))

    def delete_directory(self, name: str = "") -> None:
        """Deletes a directory with all that lies below it, if it is there."""
        from pyarrow.fs import FileType

        if self.type_of(name) != FileType.NotFound:
            self.filesystem.delete_dir(self.path(name))


def is_remote(url: str) -> bool:
    """Whether a location is a URI rather than a path."""
    return "://" in url


def join(url: str, name: str) -> str:
    """The location of a name below another: a path, or a URI whose query stays at its end."""
    if not is_remote(url):
        return str(Path(url) / name)
    path, mark, query = url.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"


@contextmanager
def storage_errors(make: Callable[[str], AgentError], *kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of a storage (OSError, ValueError, and the given kinds) into one for users.

    Args:
        make: Makes it from the reason, on one line.
        kinds: Further kinds of errors.
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, *kinds)):
            raise
        raise make(one_line(error)) from error
