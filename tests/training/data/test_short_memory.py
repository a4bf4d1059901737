"""Workers that may have 5 GB each, and a micro-batch that needs more: it is halved, and the result stays the same."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from agent.config.base import from_mapping
from agent.errors import TrainingError
from tests.tiny import make_model, write_conll
from tests.training.runs import train_here
from training.config import TrainingConfig
from training.lifecycle.job import train
from training.tracking.metrics_log import step_rows

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[3]
LIMIT = 4 * 1024**3  # between what micro-batches of 50,000 and of 100,000 tokens take


def limit_memory():
    """Runs in every Ray worker as it starts."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


@pytest.fixture(scope="module", autouse=True)
def small_workers(no_ray):
    import ray

    environment = {
        "worker_process_setup_hook": "tests.training.data.test_short_memory.limit_memory",
        "env_vars": {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
    }
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env=environment)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("memory")
    make_model(root / "model", hidden=192)
    write_conll(root / "ner", train=14_000)

    def make(name, **batch):
        tree = {
            "output": str(root / name), "epochs": 1, "data": {"path": str(root / "ner")},
            "model": {"name": str(root / "model"), "dropout": 0.0, "stride": 8}, "engine": {"precision": "fp32"},
            "batch": {"tokens": 100_000, **batch},
        }  # fmt: skip
        return from_mapping(TrainingConfig, tree)

    return make


def test_micro_batches_are_halved_until_they_fit(settings, capfd):
    large = train(settings("large", micro_tokens=100_000)).outcome
    small = train_here(settings("small", micro_tokens=4_000)).outcome
    assert "memory of a worker ran out with micro-batches of 100000 tokens" in capfd.readouterr().out
    assert len(step_rows(large.metrics_log)) == len(step_rows(small.metrics_log))
    ours, theirs = (step_rows(outcome.metrics_log)[0]["loss"] for outcome in (large, small))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_without_leave_to_halve_the_error_names_the_knobs(settings):
    with pytest.raises(TrainingError, match=r"batch\.micro_tokens=50000 .*engine\.activation_checkpointing=true"):
        train(settings("refused", micro_tokens=100_000, halve_on_oom=False))
