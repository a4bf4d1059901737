"""Searches options of compression steps with Ray Tune for the fastest agent within a loss of score."""
