"""What tests of whole runs share: a Ray of their own, and a tiny model with data."""

from __future__ import annotations

import os

import pytest

from tests.tiny import make_model, write_conll

# Ray's workers take what others leave (nice 15): beside busy neighbours a run of seconds would take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="module")
def local_ray():
    """Four CPUs, whatever the machine has, and never the Ray of somebody else on it."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A directory with `model` and `ner`."""
    root = tmp_path_factory.mktemp("places")
    make_model(root / "model")
    write_conll(root / "ner")
    return root
