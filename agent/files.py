"""Writes files and directories under a draft's name and renames them, so that they are whole or absent; digests of files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_file(file: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yields a path beside `file` to write to, and renames it to `file` when the block ends well; otherwise removes it.

    Args:
        file: Its directory is made where it is absent.
        durable: Whether the content is on disk before the rename, so that a power cut leaves the old file or the new one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        if durable:
            with draft.open("rb") as stream:
                os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_file(file: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file whole or not at all; text as UTF-8. `durable` as for `draft_file`."""
    with draft_file(file, durable=durable) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def draft_directory(place: Path) -> Iterator[Path]:
    """Yields a new directory beside `place`, for `replace_directory`; what is still there when the block ends is removed.

    Raises:
        OSError: The directory above cannot be made or written to.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_directory(draft: Path, place: Path) -> None:
    """Renames a draft to `place`; a directory that stands there is moved aside before and removed after."""
    if not place.exists():
        draft.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
    os.replace(place, aside)
    draft.rename(place)
    shutil.rmtree(aside)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
