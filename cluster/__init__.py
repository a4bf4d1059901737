"""Reaching a Ray cluster and planning its resources. Knows nothing of models."""

from cluster.connection import ClusterConfig, connect
from cluster.plan import WorkerPlan, plan_workers

__all__ = ["ClusterConfig", "WorkerPlan", "connect", "plan_workers"]
