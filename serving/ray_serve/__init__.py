"""Everything that knows Ray Serve, HAProxy or uvicorn: the replica, its HTTP protocol, autoscaling, rollouts, metrics."""
