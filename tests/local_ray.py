"""The local Ray that most test modules share, and how a module gets one of its own: a process can hold only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Ray's workers take what others leave (nice 15): beside busy neighbours a run of seconds would take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# Nor workers that are started for as many CPUs as there are: what runs here has its own environment and starts its own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

_shared: list[str] = []  # the address of the shared Ray while it runs


def share_ray() -> None:
    """Starts a Ray of four CPUs, whatever the machine has and whoever else has a Ray on it, unless it runs already."""
    import ray

    if _shared and ray.is_initialized():
        return
    ray.shutdown()
    context = ray.init(
        address="local", num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}
    )
    _shared[:] = [context.address_info["gcs_address"]]


@pytest.fixture(scope="module")
def local_ray() -> None:
    """The shared Ray, which outlives the module."""
    share_ray()


@contextmanager
def commands_join() -> Iterator[None]:
    """Commands started here join the shared Ray: the processes of one of their own take longer than a tiny training."""
    share_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", _shared[0])
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def ray_for_commands() -> Iterator[None]:
    pytest.importorskip("deepspeed")
    with commands_join():
        yield


@pytest.fixture(scope="module")
def no_ray() -> Iterator[None]:
    """Ends the shared Ray, so that the module can start its own, and whatever the module leaves."""
    import ray

    _shared.clear()
    ray.shutdown()
    yield
    ray.shutdown()
