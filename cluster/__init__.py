"""Ray clusters: connection, resources, storage, trials, progress, monitoring."""

from cluster.connection import ClusterConfig, connect, node_resources
from cluster.worker_plan import WorkerPlan, plan_workers

__all__ = ["ClusterConfig", "WorkerPlan", "connect", "node_resources", "plan_workers"]
