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

    before = os.environ.get("RAY_ADDRESS")
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


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
