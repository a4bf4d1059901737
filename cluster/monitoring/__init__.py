"""Dashboards, recording rules and alerts as code.

The panels (`panels/`) and rules (`rules/`) make the files in k8s/monitoring/ (`python -m cluster.monitoring`) and the local
page (`make monitor`).
"""
