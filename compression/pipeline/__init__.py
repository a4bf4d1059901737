"""Runs the steps, saves the state after each, and applies the quality gate."""
