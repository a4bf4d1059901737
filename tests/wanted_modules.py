"""Leaves out modules none of whose tests the marker expression (-m) can want: importing all of them takes each process half a minute."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

_MARKERS = ("system", "long", "faults", "browser", "optimum")


@cache
def written(module: Path) -> frozenset[str]:
    """The markers that a module writes at some of its tests."""
    return frozenset(_MARKERS) & frozenset(re.findall(r"pytest\.mark\.(\w+)", module.read_text(encoding="utf-8")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.option.markexpr or not collection_path.match("test_*.py"):
        return None
    wants, names = Expression.compile(config.option.markexpr).evaluate, sorted(written(collection_path))
    subsets = itertools.chain.from_iterable(itertools.combinations(names, size) for size in range(len(names) + 1))
    return None if any(wants(lambda name, **_: name in subset) for subset in subsets) else True  # noqa: B023 - asked at once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hidden := {mark.name for mark in item.iter_markers()} & set(_MARKERS) - written(item.path):
            raise pytest.UsageError(
                f"{item.nodeid}: its module has to write pytest.mark.{min(hidden)} itself (tests/wanted_modules.py)"
            )
