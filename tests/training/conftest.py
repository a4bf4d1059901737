"""What tests of whole runs share: a Ray of their own, and a tiny model with data."""

from __future__ import annotations

import pytest

from tests.tiny import make_model, write_conll


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
