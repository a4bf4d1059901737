"""Makes the environment that a rival lives in, once; says why where it cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rivals.roster import Entrant


class NotInstalledError(Exception):
    """A rival does not install here."""


def python_of(entrant: Entrant, directory: Path, *, limit_s: float) -> str:
    """The interpreter that runs a server; makes its environment if that is not there.

    Args:
        entrant: The server; one without packages of its own runs in this environment.
        directory: Where environments lie. Servers with the same packages share one.
        limit_s: Seconds that an installation may take.

    Raises:
        NotInstalledError: pip failed or took too long.
    """
    if not entrant.packages:
        return sys.executable
    place = directory / entrant.packages[0].partition("==")[0]
    python, stamp = place / "bin/python", place / ".installed"
    wanted = "\n".join((*entrant.first, *entrant.packages))
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    begun = time.monotonic()
    print(f"{entrant.name}: installing {' '.join(entrant.packages)} in {place} ...", flush=True)
    _call([sys.executable, "-m", "venv", str(place)], limit_s)
    for packages in filter(None, (entrant.first, entrant.packages)):
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *packages]
        _call(pip, limit_s - (time.monotonic() - begun))
    stamp.write_text(wanted)
    print(f"{entrant.name}: installed in {time.monotonic() - begun:.0f} s", flush=True)
    return str(python)


def _call(command: list[str], limit_s: float) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, limit_s), check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"{Path(command[0]).name} took longer than the time limit") from None
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or ended.stderr.splitlines()
        raise NotInstalledError(" ".join(lines[-3:])[:500] or f"status {ended.returncode}")
