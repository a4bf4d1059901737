"""Fixtures that the tests of monitoring share."""

from tests.cluster.monitoring.tools import webhook

__all__ = ["webhook"]
