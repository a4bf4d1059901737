"""Pytest option --durations-json=FILE: adds how long each module and each slow test of this run took to a JSON file."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

SLOW_S = 1.0  # tests below it appear in their module's sum only


class DurationsFile:
    """Collects the reports of a run, of xdist's workers too, and writes them under the run's marker expression."""

    def __init__(self, file: Path, run: str) -> None:
        self._file, self._run, self._begun = file, run, time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._outcomes: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self._outcomes[report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        modules: dict[str, float] = defaultdict(float)
        for test, seconds in self._seconds.items():
            modules[test.partition("::")[0]] += seconds
        runs: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        runs[self._run] = {
            "wall_seconds": round(time.perf_counter() - self._begun, 1),
            "cores": os.cpu_count(),
            "outcomes": dict(self._outcomes),
            "modules": _slowest_first(modules),
            "tests": _slowest_first({test: seconds for test, seconds in self._seconds.items() if seconds >= SLOW_S}),
        }
        self._file.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n")


def _slowest_first(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in sorted(seconds.items(), key=lambda pair: -pair[1])}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--durations-json",
        metavar="FILE",
        type=Path,
        help="add how long modules and tests took to FILE (with =: pytest takes a file that stands alone for a test)",
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--durations-json")
    if file is not None and not hasattr(config, "workerinput"):  # a worker of xdist reports to the main process
        config.pluginmanager.register(DurationsFile(file, config.getoption("-m") or "all"))
