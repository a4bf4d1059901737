"""Training that compression asked for ends with it: real processes, real Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.signals import as_from_a_terminal

ROOT = Path(__file__).resolve().parents[3]
MARK = "BERT_AGENT_TEST_RUN"


def alive(mark: str) -> dict[int, str]:
    """Processes whose environment, inherited from the one that was started, holds the mark; zombies have none."""
    found = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdecimal() or int(place.name) == os.getpid():
            continue
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
        except OSError:
            continue
    return found


def wait(until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.system
@pytest.mark.faults
def test_a_signal_to_compression_ends_its_training_too(tagger: Path, tmp_path: Path) -> None:
    """Sent to the process alone, as Kubernetes and `kill` do; Ctrl-C reaches the whole group, which is easier.

    Every signal ends what `run_command` started by the same code (tests/cluster/test_child_process.py).
    """
    pytest.importorskip("deepspeed")
    mark, log = uuid.uuid4().hex, tmp_path / "log"
    command = [
        sys.executable, str(ROOT / "compression/run.py"), f"bundle={tagger}", f"output={tmp_path / 'out'}", "threads=1",
        "steps=[{kind: distill, epochs: 5000}, verify]",
    ]  # fmt: skip
    environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        program = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - sets two handlers, takes no lock
        )  # fmt: skip
    try:
        assert wait(lambda: "epoch 1" in log.read_text() or program.poll() is not None, 240), log.read_text()
        assert program.poll() is None, log.read_text()
        assert any("training/run.py" in command for command in alive(mark).values())
        program.send_signal(signal.SIGTERM)
        assert wait(lambda: program.poll() is not None, 90)
        assert program.returncode == 143
        assert wait(lambda: not alive(mark), 30), alive(mark)
        assert not (tmp_path / "out").exists()
    finally:
        for pid in alive(mark):
            os.kill(pid, signal.SIGKILL)
