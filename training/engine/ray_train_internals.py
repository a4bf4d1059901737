"""Every access to private parts of Ray Train, written for Ray 2.60 (tests/training/engine/test_private_interfaces.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agent.errors import AgentError


@contextmanager
def cluster_address_for_helpers() -> Iterator[None]:
    """Tells Ray Train's helper actors which cluster is ours.

    Its PlacementGroupCleaner asks the state API without an address; with a second Ray on the machine it finds no controller in that
    one and removes our workers, or warns every second (seen with ray 2.60).
    """
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    with _environment(RAY_ADDRESS=ray.get_runtime_context().gcs_address):
        yield


@contextmanager
def no_preemption_watcher() -> Iterator[None]:
    """Lets Ray Train start a process less, unless the user asks for it: nobody takes away the machine that a local Ray runs on."""
    name = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    with _environment(**{name: os.environ.get(name, "0")}):
        yield


def trainer_without_datasets() -> Any:
    """Ray Train's TorchTrainer without the process that each group of workers would start for datasets of Ray Data: ours get theirs otherwise."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import DatasetsCallback

    class TrainerWithoutDatasets(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [one for one in super()._create_default_callbacks() if not isinstance(one, DatasetsCallback)]

    return TrainerWithoutDatasets


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Sets variables until the block ends: the next run of this program may be another one."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def root_cause(error: BaseException) -> BaseException:
    """Our own error inside a worker, if that ended the run; else the error itself.

    Args:
        error: Ray Train's TrainingFailedError; its `worker_failures` chain errors by `cause`.
    """
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, AgentError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return error


def abort_run(controller: Any, *, timeout_s: float) -> None:
    """Ends a run from outside, as Ctrl-C on its driver does; its placement group is freed.

    Args:
        controller: The actor handle of the run's TrainController.
        timeout_s: How long to wait for it.
    """
    import ray

    with suppress(ray.exceptions.RayActorError):  # it ends its own process
        ray.get(controller.abort.remote(), timeout=timeout_s)
