"""Plans data-parallel workers over the GPUs or cores of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def plan_workers(num_workers: int | None, nodes: Sequence[Mapping[str, float]]) -> WorkerPlan:
    """Plans data-parallel workers: one per GPU where there are GPUs, else CPU workers that share the cores.

    Args:
        num_workers: How many; None takes every GPU, or one worker with all cores of the largest all-CPU node.
        nodes: Resources of each node, as `node_resources` gives them.

    Raises:
        ClusterError: More workers were asked for than the cluster has GPUs or cores.
    """
    gpus, cpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("GPU", "CPU"))
    on_gpus = bool(sum(gpus))
    unit, available = ("GPUs", sum(gpus)) if on_gpus else ("CPUs", sum(cpus))
    wanted = num_workers or (available if on_gpus else 1)
    if wanted > available:
        raise ClusterError(
            f"num_workers={wanted}, but the cluster has {available} {unit}",
            allowed=f"1 to {available} workers" if available else "",
            remedy="lower num_workers or add nodes",
        )
    if on_gpus:
        return WorkerPlan(wanted, use_gpu=True, cpus_per_worker=_beside_gpus(wanted, gpus, cpus))
    return WorkerPlan(wanted, use_gpu=False, cpus_per_worker=_largest_share(wanted, cpus))


def _largest_share(wanted: int, cpus: Sequence[int]) -> int:
    """The most cores that each worker can have; a worker lies on one node."""
    return max(share for share in range(1, max(cpus) + 1) if sum(node // share for node in cpus) >= wanted)


def _beside_gpus(wanted: int, gpus: Sequence[int], cpus: Sequence[int]) -> int:
    """Cores for collating, the same for each GPU that may be used."""
    shares = [node_cpus // min(node_gpus, wanted) for node_gpus, node_cpus in zip(gpus, cpus, strict=True) if node_gpus]
    return max(1, min(4, *shares))
