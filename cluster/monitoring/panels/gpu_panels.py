"""The GPU panels of the serving and training dashboards."""

from __future__ import annotations

from cluster.monitoring.panels.dashboard import Panel, Unit, panel


def _gpu_panel(title: str, unit: Unit, description: str, series: str) -> Panel:
    query = (f'{series}{{namespace=~"$namespace"}}', "{{ip}} GPU {{GpuIndex}}")
    return panel(title, unit, description, query, needs="gpu")


GPU_USE = _gpu_panel("GPU use", "percent", "How busy each GPU is.", "ray_node_gpus_utilization")
GPU_MEMORY = _gpu_panel("GPU memory", "decmbytes", "Memory taken on each GPU.", "ray_node_gram_used")
GPU_MEMORY_LEFT = _gpu_panel(
    "GPU memory left",
    "decmbytes",
    "Memory free on each GPU; a micro-batch that does not fit is halved.",
    "ray_node_gram_available",
)
