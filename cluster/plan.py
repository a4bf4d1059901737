"""How many workers on which hardware: arithmetic over a cluster's resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.errors import ClusterError


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Workers of one kind: each has a GPU, or `cpus_per_worker` cores."""

    num_workers: int
    use_gpu: bool
    cpus_per_worker: int

    def __str__(self) -> str:
        each = "1 GPU" if self.use_gpu else f"{self.cpus_per_worker} CPU thread(s)"
        return f"{self.num_workers} {'GPU' if self.use_gpu else 'CPU'} worker(s), {each} each"


def plan_workers(num_workers: int | None, resources: Mapping[str, float]) -> WorkerPlan:
    """Plans data-parallel workers: one per GPU where there are GPUs, else CPU workers that share the cores.

    Args:
        num_workers: How many; None takes every GPU, or one worker with all cores of an all-CPU machine.
        resources: As `ray.cluster_resources()` gives them.

    Raises:
        ClusterError: More workers were asked for than the cluster has GPUs or cores.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    unit, available = ("GPUs", gpus) if gpus else ("CPUs", cpus)
    wanted = num_workers or (gpus if gpus else 1)
    if wanted > available:
        raise ClusterError(
            f"num_workers={wanted}, but the cluster has {available} {unit}",
            allowed=f"1 to {available} workers" if available else "",
            remedy="lower num_workers or add nodes",
        )
    share = max(1, cpus // wanted)
    return WorkerPlan(wanted, use_gpu=bool(gpus), cpus_per_worker=min(share, 4) if gpus else share)
