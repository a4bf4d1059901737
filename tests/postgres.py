"""A PostgreSQL of Debian's package for one test: started on a free port, with data of its own, removed afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

_USER = "postgres"  # the server refuses to run as root


def _programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


class Postgres:
    """A server that can be stopped and started again.

    Args:
        programs: Where initdb and pg_ctl lie.
        place: An empty directory that belongs to the user that the server runs as.
    """

    def __init__(self, programs: Path, place: Path) -> None:
        self._programs, self._place = programs, place
        self._port = free_port()
        self.url = f"postgresql+psycopg://{_USER}@127.0.0.1:{self._port}/postgres"
        self._run("initdb", "-D", str(place / "data"), "-A", "trust", "-U", _USER, "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._place}"
        self._run(
            "pg_ctl", "-D", str(self._place / "data"), "-w", "-l", str(self._place / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        """Ends it at once, and whoever is connected."""
        self._run("pg_ctl", "-D", str(self._place / "data"), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        user = _USER if os.getuid() == 0 else None
        done = subprocess.run(
            [str(self._programs / program), *arguments], cwd=self._place, user=user, check=False, timeout=60,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()


def why_not() -> str:
    """Why no server can be started; empty where one can."""
    if _programs() is None:
        return "initdb is not installed (Debian: apt-get install postgresql)"
    return ""


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server inside the block."""
    programs = _programs()
    assert programs is not None
    place = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if os.getuid() == 0:
            shutil.chown(place, _USER)
        server = Postgres(programs, place)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place)
