"""A store of named directories on a local path, NFS or S3; each is there whole, with sha256 of every file, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from agent.errors import CheckpointError
from agent.files import sha256_of
from cluster.file_system import Location, join, storage_errors

_MARKER = "complete.json"  # written last: an entry without it does not exist
_PARTIAL = ".partial."
_RAY_TRAIN = "ray-train"


class DirectoryStore:
    """The entries of one location.

    Args:
        url: See `cluster.file_system.Location`.
    """

    def __init__(self, url: str) -> None:
        self.location = Location(url)

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.location.url

    def names(self, prefix: str = "") -> list[str]:
        """Entries that are complete, in alphabetic order.

        Raises:
            CheckpointError: The location cannot be read.
        """
        with self._errors("read"):
            found = [name for name in self._directories() if name.startswith(prefix) and _PARTIAL not in name]
            return sorted(name for name in found if self.location.is_file(f"{name}/{_MARKER}"))

    @contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        """Opens a local directory, whose content becomes the entry in one step when the block ends well.

        Raises:
            CheckpointError: There is no room, or the location may not be written. Other entries are untouched.
        """
        with self._errors("written"):
            draft = self._make_draft(name)
            try:
                yield draft
                _write_marker(draft)
                self._commit(draft, name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    @contextmanager
    def fetch(self, name: str) -> Iterator[Path]:
        """Opens an entry as a local directory, verified; it is there until the block ends.

        Raises:
            CheckpointError: It is absent, damaged or unreadable.
        """
        if self.directory:
            self._verify(self.directory / name, name)
            yield self.directory / name
            return
        with tempfile.TemporaryDirectory(prefix="bert-agent.") as temporary:
            with self._errors("read"):
                self.location.download(Path(temporary), name)
            self._verify(Path(temporary), name)
            yield Path(temporary)

    @property
    def directory(self) -> Path | None:
        """The local path, if it has one."""
        with self._errors("opened"):
            return self.location.local_path

    @property
    def ray_train_url(self) -> str:
        """A location on the same storage for Ray Train's own files, which all workers must reach."""
        return join(self.url, _RAY_TRAIN)

    def remove(self, name: str) -> None:
        """Removes an entry, its marker first."""
        with self._errors("written"):
            if self.location.is_file(f"{name}/{_MARKER}"):
                self.location.delete_file(f"{name}/{_MARKER}")
            self.location.filesystem.delete_dir(self.location.path(name))

    def clear(self) -> None:
        """Removes the location with its entries, these first: a process killed meanwhile leaves no damaged ones."""
        with self._errors("written"):
            for name in self.names():
                self.remove(name)
            self.location.delete_directory()

    def remove_incomplete(self) -> None:
        """Removes what killed writers left unfinished. Nobody else may be writing."""
        with self._errors("written"):
            complete = set(self.names())
            for name in self._directories():
                if name not in complete:
                    self.location.delete_directory(name)

    def _directories(self) -> list[str]:
        from pyarrow.fs import FileType

        found = [info.base_name for info in self.location.list() if info.type == FileType.Directory]
        return [name for name in found if name != _RAY_TRAIN]

    def _make_draft(self, name: str) -> Path:
        if not self.directory:
            return Path(tempfile.mkdtemp(prefix="bert-agent."))
        self.directory.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}{_PARTIAL}", dir=self.directory))

    def _commit(self, draft: Path, name: str) -> None:
        if self.directory:
            _flush(draft)
            draft.rename(self.directory / name)
            _flush_directory(self.directory)
            return
        marker = draft / _MARKER
        for file in [*(file for file in draft.rglob("*") if file.is_file() and file != marker), marker]:
            self.location.upload(file, f"{name}/{file.relative_to(draft).as_posix()}")

    def _verify(self, directory: Path, name: str) -> None:
        try:
            expected = json.loads((directory / _MARKER).read_text(encoding="utf-8"))
            damaged = [file for file, digest in expected.items() if sha256_of(directory / file) != digest]
        except (OSError, ValueError, AttributeError) as error:  # the last one: JSON, but no object
            raise self._damaged(name, str(error)) from None
        if damaged:
            raise self._damaged(name, f"its file {damaged[0]} was altered or cut short")

    def _damaged(self, name: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {name} at {self.url} cannot be read: {why}",
            remedy="restore it, remove that directory to go on from an older one if there is one, or set resume=false to start afresh",
        )

    def _errors(self, verb: str) -> AbstractContextManager[None]:
        from safetensors import SafetensorError

        def make(reason: str) -> CheckpointError:
            return CheckpointError(
                f"{self.url} cannot be {verb} ({reason})",
                allowed="a directory with room that may be written, or s3://bucket/prefix",
                remedy="free space or mend the permissions and give the same command again: it goes on from the last checkpoint",
            )

        return storage_errors(make, SafetensorError)  # a full disk is a SafetensorError to the writer of tensors


def _write_marker(directory: Path) -> None:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    digests = {file.relative_to(directory).as_posix(): sha256_of(file) for file in files}
    (directory / _MARKER).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def _flush(directory: Path) -> None:
    """Writes the content to disk before the rename, which alone would survive a power cut without it."""
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
