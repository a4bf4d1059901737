"""Collects what was decided and what came back on it, for training and evaluation on the log."""
