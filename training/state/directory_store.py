"""Named directories on a local path, NFS or S3-compatible storage, each there whole or not at all. Knows no training."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from agent.errors import AgentError, CheckpointError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_MARKER = "complete.json"  # written last: an entry without it does not exist
_PARTIAL = ".partial."
_FOREIGN = "ray-train"


class DirectoryStore:
    """Entries of one place.

    Args:
        place: A directory, or `s3://bucket/prefix` with what pyarrow takes behind it (`?endpoint_override=host:9000&scheme=http`).
    """

    def __init__(self, place: str) -> None:
        self.place = _absolute(place)

    def __reduce__(self) -> tuple[type[DirectoryStore], tuple[str]]:
        return DirectoryStore, (self.place,)

    def names(self, prefix: str = "") -> list[str]:
        """Entries that are complete, in alphabetic order.

        Raises:
            CheckpointError: The place cannot be read.
        """
        with self._speaking("read"):
            found = [name for name in self._listed() if name.startswith(prefix) and _PARTIAL not in name]
            return sorted(name for name in found if self._exists(f"{name}/{_MARKER}"))

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """Opens a local directory; what it holds when the block ends well becomes the entry, in one step.

        Raises:
            CheckpointError: There is no room, or the place may not be written. Other entries are untouched.
        """
        with self._speaking("written"):
            draft = self._make_draft(name)
            try:
                yield draft
                _mark(draft)
                self._commit(draft, name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    @contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        """Opens an entry as a local directory, verified; it is there until the block ends.

        Raises:
            CheckpointError: It is absent, damaged or unreadable.
        """
        if self._local:
            directory = Path(self._root) / name
            self._verify(directory, name)
            yield directory
            return
        from pyarrow.fs import LocalFileSystem, copy_files

        with tempfile.TemporaryDirectory(prefix="bert-agent.") as temporary:
            with self._speaking("read"):
                copy_files(f"{self._root}/{name}", temporary, self._filesystem, LocalFileSystem())
            self._verify(Path(temporary), name)
            yield Path(temporary)

    @property
    def directory(self) -> Path | None:
        """Where it lies, if that is a local path."""
        return Path(self._root) if self._local else None

    @property
    def beside(self) -> str:
        """A place on the same storage for files of Ray Train, which it wants all workers to reach."""
        return below(self.place, _FOREIGN)

    def remove(self, name: str) -> None:
        """Removes an entry, its marker first."""
        with self._speaking("written"):
            if self._exists(f"{name}/{_MARKER}"):
                self._filesystem.delete_file(f"{self._root}/{name}/{_MARKER}")
            self._filesystem.delete_dir(f"{self._root}/{name}")

    def clear(self) -> None:
        """Removes the place and all that lies there, entry by entry first: who is killed meanwhile leaves no broken ones."""
        from pyarrow.fs import FileType

        with self._speaking("written"):
            for name in self.names():
                self.remove(name)
            if self._filesystem.get_file_info(self._root).type != FileType.NotFound:
                self._filesystem.delete_dir(self._root)

    def sweep(self) -> None:
        """Removes what writers left unfinished when they were killed. Nobody else may be writing."""
        with self._speaking("written"):
            complete = set(self.names())
            for name in self._listed():
                if name not in complete:
                    self._filesystem.delete_dir(f"{self._root}/{name}")

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem, LocalFileSystem

        if "://" not in self.place:
            return LocalFileSystem(), self.place
        with self._speaking("opened"):
            filesystem, root = FileSystem.from_uri(self.place)
            return filesystem, root.rstrip("/")

    @property
    def _filesystem(self) -> FileSystem:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @property
    def _local(self) -> bool:
        return str(self._filesystem.type_name) == "local"

    def _listed(self) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        infos = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True))
        found = [info.base_name for info in infos if info.type == FileType.Directory]
        return [name for name in found if name != _FOREIGN]

    def _exists(self, name: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._filesystem.get_file_info(f"{self._root}/{name}").type == FileType.File)

    def _make_draft(self, name: str) -> Path:
        if not self._local:
            return Path(tempfile.mkdtemp(prefix="bert-agent."))
        Path(self._root).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}{_PARTIAL}", dir=self._root))

    def _commit(self, draft: Path, name: str) -> None:
        if self._local:
            _flush(draft)
            draft.rename(Path(self._root) / name)
            _flush_directory(Path(self._root))
            return
        marker = draft / _MARKER
        for file in [*(file for file in draft.rglob("*") if file.is_file() and file != marker), marker]:
            self._upload(file, f"{self._root}/{name}/{file.relative_to(draft).as_posix()}")

    def _upload(self, file: Path, path: str) -> None:
        """Not by pyarrow's copy_files: it says nothing when S3 refuses an upload at its end, and the file is missing (26.0)."""
        self._filesystem.create_dir(path.rpartition("/")[0])
        with file.open("rb") as source, self._filesystem.open_output_stream(path) as stream:
            stream.upload(source)

    def _verify(self, directory: Path, name: str) -> None:
        try:
            expected = json.loads((directory / _MARKER).read_text(encoding="utf-8"))
            damaged = [file for file, digest in expected.items() if _digest(directory / file) != digest]
        except (OSError, ValueError, AttributeError) as error:  # the last one: JSON, but no object
            raise self._damaged(name, str(error)) from None
        if damaged:
            raise self._damaged(name, f"its file {damaged[0]} was altered or cut short")

    def _damaged(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {name} at {self.place} cannot be read: {why}",
            remedy="restore it, remove that directory to go on from an older one if there is one, or set resume=false to start afresh",
        )

    @contextmanager
    def _speaking(self, verb: str) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except AgentError:
            raise
        except (
            OSError,
            ValueError,
            SafetensorError,
        ) as error:  # a full disk is a SafetensorError to who writes tensors
            raise CheckpointError(
                f"{self.place} cannot be {verb} ({' '.join(str(error).split())[:300]})",
                allowed="a directory with room that may be written, or s3://bucket/prefix",
                remedy="free space or mend the permissions and give the same command again: it goes on from the last checkpoint",
            ) from error


def below(place: str, name: str) -> str:
    """A place inside another: a path, or a URI whose query stays at its end."""
    if "://" not in place:
        return str(Path(place) / name)
    path, mark, query = place.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"


def _absolute(place: str) -> str:
    """Workers have a working directory of their own, so that a relative path would be another one there."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _mark(directory: Path) -> None:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    digests = {file.relative_to(directory).as_posix(): _digest(file) for file in files}
    (directory / _MARKER).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(directory: Path) -> None:
    """A rename that survives a power cut is worth nothing while the content is still in memory."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
