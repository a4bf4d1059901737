"""Benchmarks: each command answers one question and writes a file in results/."""
