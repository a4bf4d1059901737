"""Measures F1, calibration, latency and throughput."""
