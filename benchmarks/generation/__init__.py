"""Benchmarks of agents that write."""
