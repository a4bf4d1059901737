"""Reaching a Ray cluster and planning its resources. Knows nothing of models."""

from cluster.connection import ClusterConfig, connect, node_resources
from cluster.worker_plan import WorkerPlan, plan_workers

__all__ = ["ClusterConfig", "WorkerPlan", "connect", "node_resources", "plan_workers"]
