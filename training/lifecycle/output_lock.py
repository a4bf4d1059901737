"""Lets one process at a time work on an output. Knows nothing of what it does there."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN, ENOLCK, ENOTSUP
from pathlib import Path

from agent.errors import AgentError, BundleError

_PATIENCE_S = 5.0  # what was killed a moment ago may still be ending, as may Ray's processes below it
_LOOK_S = 0.1


@contextmanager
def claim(place: Path, *, error: type[AgentError] = BundleError) -> Iterator[None]:
    """Keeps every other process away from a file or directory until the block ends, or this process does, however that comes.

    A claim is the kernel's lock (flock) on `.NAME.lock` beside the place, which NFS takes to other hosts. The file is removed at
    the end; one that a killed process has left claims nothing.

    Raises:
        AgentError: Of the kind asked for: another process has the place, or nothing can be written beside it.
    """
    file = place.parent / f".{place.name}.lock"
    missing = [directory for directory in file.parents if not directory.exists()]
    try:
        handle = _open_locked(file)
    except OSError as failure:
        raise error(
            f"{file.parent} cannot be written ({failure.strerror})",
            remedy="mend the permissions, or choose another place",
        ) from None
    if handle is None:
        raise error(
            f"{place} is being written by {_owner(file)}",
            allowed="one process at a time",
            remedy="wait for that process or end it, then give the same command again: it goes on from its last checkpoint; or choose another output",
        )
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on host {socket.gethostname()}".encode())
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is locked: who waits for it sees that it is gone
        os.close(handle)
        for directory in missing:  # those that were made for it alone
            with suppress(OSError):
                directory.rmdir()


def _open_locked(file: Path) -> int | None:
    """The open file, locked; None if another process keeps it."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        file.parent.mkdir(parents=True, exist_ok=True)  # whose last owner may have removed it again
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(handle, file) and _is(handle, file):
            return handle
        os.close(handle)
        time.sleep(_LOOK_S)
    return None


def _lock(handle: int, file: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (ENOLCK, ENOTSUP):
            print(f"note: {file} cannot be locked ({error.strerror}): nothing keeps a second run away", flush=True)
            return True
        if error.errno in (EAGAIN, EACCES):
            return False
        raise
    return True


def _is(handle: int, file: Path) -> bool:
    """Whether the open file is still the one of that name: its last owner may have removed it in between."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _owner(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8") or "another process"
    return "another process"
