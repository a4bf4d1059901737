"""Programs that tests of monitoring need; without one they skip and say which."""

from __future__ import annotations

import shutil

import pytest


def needed(*names: str) -> str:
    """The path of the first that is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {' or '.join(names)} on PATH (.ci/monitoring-tools installs it)")
