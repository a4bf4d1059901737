"""Ranges of a search space, such as `loguniform(1e-5, 1e-3)` or `choice(64, 128)`, and values drawn from them by seed."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_WRITTEN = re.compile(r"\s*(loguniform|uniform|int|choice)\s*\((.*)\)\s*", re.DOTALL)
_POWER_OF_TEN = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")  # which YAML 1.1 reads as a text if it has no point
_FORMS = "loguniform(low, high), uniform(low, high), int(low, high) or choice(value, value, ...)"


@dataclass(frozen=True)
class Range:
    """The range of one key.

    Attributes:
        kind: `loguniform`, `uniform`, `int` (both ends included) or `choice`.
        values: The two ends, or all values of a choice.
    """

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        """Draws a value."""
        if self.kind == "choice":
            return rng.choice(self.values)
        low, high = self.values
        if self.kind == "int":
            return rng.randint(low, high)
        if self.kind == "uniform":
            drawn = rng.uniform(low, high)
        else:
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(max(float(f"{drawn:.3g}"), low), high)  # few digits, so that a person can type them


def parse_range(written: Any) -> Range:
    """Reads a range.

    Raises:
        ValueError: It is not a range, or is empty.
    """
    match = _WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if not match:
        raise ValueError(f"give {_FORMS}")
    kind, values = match[1], _values(match[2])
    if kind == "choice":
        if not values or len(set(map(repr, values))) < len(values):
            raise ValueError("choice(...) needs values, each once")
        return Range(kind, values)
    return Range(kind, _ends(kind, values))


def draw(space: Mapping[str, Range], *, seed: int, number: int) -> dict[str, Any]:
    """The settings of a trial, by its number: they do not depend on how many trials are drawn."""
    rng = random.Random(f"{seed} {number}")
    return {key: space[key].draw(rng) for key in sorted(space)}


def corners(space: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    """Yields settings that cover every value of a choice and both ends of each range."""
    for index in range(max(len(found.values) for found in space.values())):
        yield {key: found.values[min(index, len(found.values) - 1)] for key, found in space.items()}


def _values(written: str) -> tuple[Any, ...]:
    try:
        values = yaml.safe_load(f"[{written}]")
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list):
        raise ValueError(f"give {_FORMS}")
    return tuple(
        float(value) if isinstance(value, str) and _POWER_OF_TEN.fullmatch(value) else value for value in values
    )


def _ends(kind: str, values: Sequence[Any]) -> tuple[Any, ...]:
    numbers = (int,) if kind == "int" else (int, float)
    if len(values) != 2 or not all(isinstance(value, numbers) and not isinstance(value, bool) for value in values):
        raise ValueError(f"{kind}(low, high) needs two {'whole ' if kind == 'int' else ''}numbers")
    low, high = values
    if not low < high < math.inf or (kind == "loguniform" and low <= 0):
        raise ValueError(f"{kind}(low, high) needs {'0 < ' if kind == 'loguniform' else ''}low < high, both finite")
    return low, high
