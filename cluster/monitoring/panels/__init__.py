"""Dashboards: their panels, and their form for Grafana."""
