"""Two real processes that want one output."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import BundleError, CheckpointError
from cluster.output_lock import lock_output

ROOT = Path(__file__).resolve().parents[2]
HOLDER = "import sys, pathlib; from cluster.output_lock import lock_output\nwith lock_output(pathlib.Path(sys.argv[1])): print('has it', flush=True); sys.stdin.read()"  # fmt: skip


@pytest.fixture
def other(tmp_path):
    """Another process that has the output `agent`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "agent")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "has it\n"
        yield process
        process.kill()


def test_a_place_that_another_process_has_is_refused_with_its_name_and_host(tmp_path, other):
    with pytest.raises(BundleError) as caught, lock_output(tmp_path / "agent"):
        pytest.fail("both have it")
    assert (
        f"{tmp_path / 'agent'} is being written by process {other.pid} on host {os.uname().nodename}"
        in caught.value.what
    )
    assert "end it, then give the same command again" in caught.value.remedy
    with lock_output(tmp_path / "another"):
        pass


def test_the_claim_of_a_killed_process_is_void_at_once(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / ".agent.lock").exists()
    with lock_output(tmp_path / "agent"):
        assert str(os.getpid()) in (tmp_path / ".agent.lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_while_another_waits_hands_the_place_over(tmp_path, other):
    other.stdin.close()
    with lock_output(tmp_path / "agent"):
        other.wait()


def _add(place, number, file):
    """Reads a number and writes it again, one more: with two at once some are lost."""
    for _ in range(number):
        with lock_output(place):
            file.write_text(str(int(file.read_text()) + 1))


def test_claims_that_come_and_go_never_overlap(tmp_path):
    file = tmp_path / "count"
    file.write_text("0")
    adders = [
        multiprocessing.get_context("spawn").Process(target=_add, args=(tmp_path / "agent", 10, file)) for _ in range(3)
    ]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert file.read_text() == "30"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match="file cannot be written") as caught,
        lock_output(tmp_path / "file" / "run", error=CheckpointError),
    ):
        pytest.fail("written below a file")
    assert "another place" in caught.value.remedy
