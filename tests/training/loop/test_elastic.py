"""A cluster of two real raylets loses one and gets it back: training goes on with the workers that are left, then with all."""

from __future__ import annotations

import itertools
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest

from agent.config.base import from_mapping
from agent.errors import CheckpointError
from tests.tiny import make_model, write_conll
from tests.training.loop.test_faults import losses, training_workers, wait_for_step
from tests.training.runs import train_here
from training.config import TrainingConfig
from training.lifecycle.job import train
from training.state.directory_store import DirectoryStore
from training.tracking.metrics_log import step_rows

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(600)]
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture
def two_nodes(no_ray):
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK},
    )
    cluster.second = cluster.add_node(num_cpus=1)
    # A frozen worker answers nothing: by default Ray waits half a minute for it.
    variables = {"OMP_NUM_THREADS": "1", "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1"}
    ray.init(address=cluster.address, runtime_env={"env_vars": variables})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def wait_for_workers(store, number, *, timeout_s=300):
    """Returns once the newest checkpoint was written by so many workers."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(IndexError, CheckpointError, FileNotFoundError):  # none yet, or superseded while it is read
            with store.fetch(store.names("last-")[-1]) as directory:
                rows = step_rows((directory / "metrics.jsonl").read_text().splitlines())
            if rows[-1]["num_workers"] == number:
                return
        time.sleep(0.2)
    raise AssertionError(f"no checkpoint of {number} worker(s) within {timeout_s} s")


def freeze_the_worker():
    """Stops the run as it stands: however fast the machine is, it cannot end before it is widened."""
    (worker,) = training_workers()
    worker.send_signal(signal.SIGSTOP)
    return worker


def wait_until_replaced(worker, *, timeout_s=300):
    """Ray ends the group of the frozen worker to start a wider one; where it does not, the run goes on as it was and the test fails."""
    try:
        worker.wait(timeout_s)
    except psutil.TimeoutExpired:
        worker.send_signal(signal.SIGCONT)


def test_a_lost_node_shrinks_the_run_and_a_new_one_widens_it_again_in_mid_epoch(tmp_path, two_nodes, monkeypatch):
    monkeypatch.setenv(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10"
    )  # Ray first waits for the node that it believes to have
    make_model(tmp_path / "model")
    write_conll(tmp_path / "ner", train=800)
    tree = {
        "output": str(tmp_path / "elastic"), "epochs": 3, "num_workers": 2, "num_workers_min": 1, "resize_check_s": 2,
        "data": {"path": str(tmp_path / "ner")}, "model": {"name": str(tmp_path / "model"), "dropout": 0.0, "stride": 8},
        "batch": {"tokens": 128, "micro_tokens": 24}, "optimizer": {"kind": "adamw", "learning_rate": 0.0005},
        "engine": {"precision": "fp32", "zero_stage": 2}, "checkpoint": {"every_steps": 10},
    }  # fmt: skip
    store = DirectoryStore(str(tmp_path / ".elastic.run"))

    with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread only
        running = pool.submit(train, from_mapping(TrainingConfig, tree))
        wait_for_step(store, 20, timeout_s=300)
        two_nodes.remove_node(two_nodes.second, allow_graceful=False)
        wait_for_workers(store, 1)
        left = freeze_the_worker()
        two_nodes.add_node(num_cpus=1)
        wait_until_replaced(left)
        result = running.result()
    rows = step_rows(result.outcome.metrics_log)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert sum(row["sentences"] for row in rows) == 800 * 3
    assert [count for count, _ in itertools.groupby(row["num_workers"] for row in rows)] == [2, 1, 2]
    calm = tree | {
        "output": str(tmp_path / "calm"),
        "num_workers": 1,
        "num_workers_min": None,
        "batch": {"tokens": 128},
    }
    undisturbed = train_here(from_mapping(TrainingConfig, calm))
    ours, theirs = (list(losses(run).values()) for run in (result, undisturbed))
    np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=2e-4)  # sums in another order, over hundreds of steps
    assert result.outcome.after.value == pytest.approx(undisturbed.outcome.after.value, abs=0.01)
