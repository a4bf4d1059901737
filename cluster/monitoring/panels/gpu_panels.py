"""Panels on the GPUs of the nodes, which serving and training show alike."""

from __future__ import annotations

from cluster.monitoring.panels.dashboard import Panel, Query, Unit


def _gpus(title: str, description: str, unit: Unit, series: str) -> Panel:
    query = Query(f'{series}{{namespace=~"$namespace"}}', "{{ip}} GPU {{GpuIndex}}", needs="gpu")
    return Panel(title, description, unit, (query,))


GPU_USE = _gpus("GPU use", "How busy each GPU is.", "percent", "ray_node_gpus_utilization")
GPU_MEMORY = _gpus("GPU memory", "Memory taken on each GPU.", "decmbytes", "ray_node_gram_used")
GPU_MEMORY_LEFT = _gpus(
    "GPU memory left",
    "Memory free on each GPU; a micro-batch that does not fit is halved.",
    "decmbytes",
    "ray_node_gram_available",
)
