"""What is watched and how: dashboards, rules and alerts as code, for Grafana, for Kubernetes and for a page of our own.

One source: the panels (`*_panels.py`) and rules (`recordings.py`, `alerts.py`) here make the files in k8s/monitoring/
(`python -m cluster.monitoring`), the local page (`make monitor`) and what the tests ask of a real Prometheus.
"""
