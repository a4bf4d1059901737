"""Drift: recent texts and answers against the distributions that the bundle recorded."""
