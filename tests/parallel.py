"""Which tests may run side by side when xdist runs several processes: modules of unit tests, and two rows of modules that start processes.

Modules with a `system` test of the serving side run one after another in one process, those of the training side, which share a local Ray, in
another. Both rows are handed out first, since they take longest.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SERVING_SIDE = ("tests/benchmarks/", "tests/cluster/", "tests/serving/", "tests/system/")


@cache
def row(module: str) -> str:
    """What runs in one process, in order: a row of modules, or the module alone."""
    if "pytest.mark.system" not in (ROOT / module).read_text(encoding="utf-8"):
        return module
    return "serving side" if module.startswith(_SERVING_SIDE) else "training side"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: row(_module(item.nodeid)) == _module(item.nodeid))


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class _OptionalHook:
    """Registered where xdist is installed."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        from xdist.scheduler import LoadScopeScheduling

        class Rows(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return row(_module(nodeid))

        config.option.loadscopereorder = False  # the order of collection
        return Rows(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_OptionalHook())
