"""Which tests may run side by side when xdist runs several processes: modules of unit tests, and rows of modules that start processes.

Modules of one directory with a `system` test run one after another in one process, so that they share its Ray and what they train. These
rows are handed out first, since they take longest. With four processes on two cores servers started too late for their tests.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_BYTES_EACH = 4 << 30  # what a process takes with its Ray


@cache
def row(module: str) -> str:
    """What runs in one process, in order: a row of modules, or the module alone."""
    if "pytest.mark.system" not in (ROOT / module).read_text(encoding="utf-8"):
        return module
    return module.rpartition("/")[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: row(_module(item.nodeid)) == _module(item.nodeid))


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES_EACH
    return max(2, min(os.cpu_count() or 1, room))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Rows(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return row(_module(nodeid))

    config.option.loadscopereorder = False  # the order of collection
    return Rows(config, log)
