"""Locks an output so that one process at a time writes it; the lock ends with its process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOLCK, ENOTSUP
from pathlib import Path

from filelock import FileLock, Timeout

from agent.errors import AgentError, BundleError

_TIMEOUT_S = 5.0  # a process killed a moment ago may still be ending, as may Ray's processes below it
_POLL_S = 0.1


@contextmanager
def lock_output(path: Path, *, error: type[AgentError] = BundleError) -> Iterator[None]:
    """Keeps other processes away from a file or directory until the block ends, or this process does, even if killed.

    The lock is the kernel's (flock) on `.NAME.lock` beside the path, which NFS passes on to other hosts. The file is removed at the
    end; one that a killed process has left locks nothing.

    Raises:
        AgentError: Of the given kind: another process has the lock, or nothing can be written beside the path.
    """
    file = path.parent / f".{path.name}.lock"
    missing = [directory for directory in file.parents if not directory.exists()]
    lock = FileLock(file, fallback_to_soft=False)
    try:
        _acquire(lock, file)
    except Timeout:
        raise error(
            f"{path} is being written by {_owner(file)}",
            allowed="one process at a time",
            remedy="wait for that process or end it, then give the same command again: it goes on from its last checkpoint; or choose another output",
        ) from None
    except OSError as failure:
        raise error(
            f"{file.parent} cannot be written ({failure.strerror})",
            remedy="mend the permissions, or choose another place",
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is locked: processes that wait notice and open a new one
        lock.release()
        for directory in missing:  # those that were made for it alone
            with suppress(OSError):
                directory.rmdir()


def _acquire(lock: FileLock, file: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_POLL_S)
            file.write_text(f"process {os.getpid()} on host {socket.gethostname()}", encoding="utf-8")
        except FileNotFoundError:  # the last owner removed the directory again
            if time.monotonic() > deadline:
                raise
        except OSError as failure:
            if failure.errno not in (ENOLCK, ENOTSUP):
                raise
            print(f"note: {file} cannot be locked ({failure.strerror}): nothing keeps a second run away", flush=True)
            return
        else:
            return


def _owner(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8") or "another process"
    return "another process"
