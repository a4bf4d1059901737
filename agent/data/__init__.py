"""Labelled data: files or a hub data set in, three checked splits of examples out."""

from agent.data.splits import DataConfig, Splits, load_splits

__all__ = ["DataConfig", "Splits", "load_splits"]
