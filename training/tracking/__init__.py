"""Reports a run while it goes: metrics log, progress, Prometheus metrics, TensorBoard and MLflow."""
