"""How many replicas: by the work that waits and the work that is done, not by requests, which may hold one text or thousands."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext


class TokenLoadPolicy:
    """Ray Serve's autoscaling policy over what `Predictor.load` tells of every replica.

    Ray Serve applies bounds, delays and smoothing to what it says.

    Args:
        target_load: Part of what a replica can compute that is aimed at, 0 to 1.
        target_queued_s: Seconds of waiting work in a replica that are aimed at.
    """

    def __init__(self, target_load: float, target_queued_s: float) -> None:
        self._targets = {"load": target_load, "queued_s": target_queued_s}

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The replicas wanted: as many as bring the worse of the two figures to its target."""
        if not context.current_num_replicas:
            return context.target_num_replicas, {}
        told = context.aggregated_metrics or {}
        wanted = [sum(told[name].values()) / target for name, target in self._targets.items() if told.get(name)]
        return (max(wanted) if wanted else float(context.target_num_replicas)), {}
