"""Measures quality, calibration, latency and throughput."""
