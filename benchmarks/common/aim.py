"""The aim of a benchmark, and the line that says whether it was met."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Aim:
    """A bound for a figure. `measured` is None where it was not measured."""

    name: str
    measured: float | None
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bound was met; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        bound = f"(aim {'at least' if self.at_least else 'at most'} {self.bound:g})"
        if self.met is None:
            return f"aim {self.name}: not measured {bound}"
        return f"aim {self.name}: {self.measured:.3f} {bound} {'met' if self.met else 'missed'}"
