"""What goes wrong in clusters, provoked for real: killed workers and drivers, lost nodes, bad numbers, no memory, bad storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from agent.config.base import from_mapping
from agent.errors import CheckpointError, ConfigError, TrainingError
from tests.training import runs
from tests.training.runs import train_here
from training.config import TrainingConfig, output_of
from training.lifecycle.job import run_training, train
from training.lifecycle.preparation import prepare_run
from training.lifecycle.resume import start_or_resume
from training.state.directory_store import DirectoryStore
from training.tracking.metrics_log import step_rows

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(900),
]  # a run takes minutes on a slow machine
ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 12
KILLED_AT = 22  # steps; an epoch has eight


def tree(places, name, **changes):
    base = {
        "epochs": EPOCHS,
        "early_stopping": {"patience": None},
        "optimizer": {"kind": "adamw", "learning_rate": 0.003},
        "checkpoint": {"every_steps": 5},
    }
    return runs.tree(places, name, model={"dropout": 0.1}, **base | changes)


def settings(places, name, **changes):
    return from_mapping(TrainingConfig, tree(places, name, **changes))


@pytest.fixture(scope="module")
def undisturbed(places):
    """With one thread, as Ray's workers have here: to the last digit."""
    torch.set_num_threads(1)
    return train_here(settings(places, "undisturbed"))


def wait_for_step(store, step, *, timeout_s=240):
    """Returns once a checkpoint of a step or a later one is complete."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if any(int(name.removeprefix("last-")) >= step for name in store.names("last-")):
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step} in {store.url} within {timeout_s} s")


def training_workers():
    """Processes of Ray Train's workers that this test's Ray started."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "RayTrainWorker" in " ".join(process.cmdline()[:1])]


def kill_a_worker_after(store, step):
    def killer():
        wait_for_step(store, step)
        training_workers()[0].send_signal(signal.SIGKILL)
        killed.set()

    killed = threading.Event()
    threading.Thread(target=killer, daemon=True).start()
    return killed


def kill_the_first_worker():
    """Kills the first process of a worker in the moment in which it is one: Ray Train is still setting it up."""

    def killer():
        while not killed.is_set():
            with suppress(psutil.Error):  # a process that ends while it is looked at
                for worker in training_workers()[:1]:
                    worker.send_signal(signal.SIGKILL)
                    killed.set()
            time.sleep(0.005)

    killed = threading.Event()
    threading.Thread(target=killer, daemon=True).start()
    return killed


def losses(result_or_lines):
    lines = getattr(getattr(result_or_lines, "outcome", None), "metrics_log", result_or_lines)
    return {row["step"]: row["loss"] for row in step_rows(lines)}


@pytest.mark.faults
def test_a_worker_killed_in_mid_epoch_costs_nothing_but_time(places, undisturbed):
    config = settings(places, "killed")
    killed = kill_a_worker_after(DirectoryStore(str(places / ".killed.run")), KILLED_AT)
    result = train(config)
    assert killed.is_set()
    rows = step_rows(result.outcome.metrics_log)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))  # none missing, none twice
    assert sum(row["sentences"] for row in rows) == 120 * EPOCHS
    assert losses(result) == losses(undisturbed)  # dropout and all: to the last digit
    assert (result.bundle.path / "model.safetensors").read_bytes() == (
        undisturbed.bundle.path / "model.safetensors"
    ).read_bytes()
    assert not (places / ".killed.run").exists()


@pytest.mark.faults
def test_a_worker_that_dies_while_it_starts_is_started_again_and_counts_as_no_failure(places, undisturbed):
    killed = kill_the_first_worker()
    result = train(settings(places, "stillborn", max_failures=0))
    assert killed.is_set()
    assert losses(result) == losses(undisturbed)


def run_command(places, name, *arguments):
    config = places / f"{name}.json"  # JSON is YAML
    config.write_text(json.dumps(tree(places, name)))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [
        sys.executable,
        "training/run.py",
        str(config),
        "cluster.num_cpus=1",
        "cluster.dashboard=false",
        *arguments,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def kill_group(process):
    """The driver, its Ray and all workers at once, as when the machine loses power."""
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in members:
        member.kill()
    process.wait()


def run_beside(first, places, name):
    """What the same command says while the first one has the output, which waits meanwhile: it shall not be done before that."""
    deadline = time.monotonic() + 240
    lock = places / f".{name}.lock"
    while not (lock.exists() and lock.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    try:
        return run_command(places, name).communicate(timeout=240)[0]
    finally:
        first.send_signal(signal.SIGCONT)


@pytest.mark.faults
def test_a_worker_that_always_crashes_ends_the_run_with_its_error(places, capfd):
    """Room for halved micro-batches is none for crashes, which would repeat themselves many times."""
    ready = prepare_run(settings(places, "crashing", num_workers=1, max_failures=1))
    store = start_or_resume(ready.config, output_of(ready.config), ready.data.digest, ready.other_digests).store
    cut = replace(ready.data.train, targets=ready.data.train.targets[:3])
    with pytest.raises(TrainingError, match=r"failed again and again, last with \w+Error"):
        run_training(replace(ready, data=replace(ready.data, train=cut)), store)
    assert capfd.readouterr().out.count("Traceback") == 2
    assert not (places / "crashing").exists()


@pytest.mark.faults
def test_the_same_command_goes_on_when_driver_and_cluster_were_lost(places, undisturbed):
    store = DirectoryStore(str(places / ".lost.run"))
    first = run_command(places, "lost")
    beside_it = run_beside(first, places, "lost")
    assert f"{places / 'lost'} is being written by process {first.pid} on host" in beside_it
    wait_for_step(store, KILLED_AT)
    kill_group(first)
    other = settings(places, "lost", optimizer={"kind": "adamw", "learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate=0\.1 \(was 0\.003\).*resume=false"):
        train_here(other)
    output = run_command(places, "lost").communicate(timeout=240)[0]
    assert "goes on with an unfinished run" in output, (
        output
    )  # the driver's; what workers say may come too late to be shown
    lines = (places / "lost" / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose(
        list(losses(lines).values()), list(losses(undisturbed).values()), rtol=1e-4
    )  # another number of threads
    again = run_command(places, "lost").communicate(timeout=240)[0]  # without Ray
    assert "this run is finished" in again


def test_resume_false_starts_afresh_and_says_so(places, capsys):
    config = settings(places, "afresh", epochs=1)
    store = DirectoryStore(str(places / ".afresh.run"))
    for name in ("run", "last-00000005"):
        with store.draft(name) as directory:
            (directory / "run.json").write_text("{}")
    result = train_here(config.model_copy(update={"resume": False}))
    assert "resume=false: starting afresh" in capsys.readouterr().out
    assert step_rows(result.outcome.metrics_log)[0]["step"] == 1


def test_a_damaged_checkpoint_is_an_error_and_stays_where_it_is(places):
    from training.lifecycle.resume import start_or_resume

    config = settings(places, "damaged")
    from agent.data import load_splits

    digest = load_splits(config.data, config.task).digest
    store = start_or_resume(config, Path(config.output), digest).store
    with store.draft("last-00000005") as directory:
        (directory / "weights.safetensors").write_bytes(b"x" * 1000)
    weights = Path(store.url) / "last-00000005" / "weights.safetensors"
    weights.write_bytes(b"y" * 1000)
    with pytest.raises(CheckpointError, match=r"last-00000005 .* altered or cut short.*resume=false"):
        train_here(config)
    assert weights.exists()


def test_a_loss_that_explodes_ends_the_run_with_step_rate_and_sentences(places):
    """In this process; that it ends a run of Ray Train's workers as well: test_tune.py."""
    config = settings(places, "exploding", optimizer={"kind": "adamw", "learning_rate": 1e6, "max_grad_norm": 1e9})
    with pytest.raises(
        TrainingError, match=r"at step \d+, learning rate .*, training sentences \d+, \d+.*lower optimizer"
    ):
        train_here(config)


def test_storage_that_cannot_be_written_is_named_before_training(places):
    (places / "file").write_text("")
    config = settings(places, "unwritable", checkpoint={"storage": str(places / "file" / "below")})
    with pytest.raises(CheckpointError, match=r"file/below.*cannot be"):
        train(config)
