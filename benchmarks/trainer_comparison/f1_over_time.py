"""Compares F1 over training time of Trainer and ours."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchmarks.trainer_comparison.base import Contestant
from benchmarks.trainer_comparison.ours import Ours
from benchmarks.trainer_comparison.trainer import Trainer
from benchmarks.trainer_comparison.workbench import Found

GOAL = 0.90  # dev F1

Point = tuple[float, float]
"""Seconds of training, dev F1."""

Entrant = TypeVar("Entrant", bound=Contestant)
Ask = Callable[[Contestant], Found | None]
"""Measures a contestant, or returns an earlier result."""


def race(ask: Ask, entrants: Sequence[tuple[Trainer | Ours, Sequence[float]]]) -> dict[str, Any] | None:
    """Runs each one to the end, at the best of its learning rates by a run of one epoch; None if something is not known.

    Args:
        ask: Where results come from.
        entrants: Trainer, then ours, with the epochs of the whole run, each with its learning rates.
    """
    ends = [run_to_the_end(ask, entrant, rates) for entrant, rates in entrants]
    if not all(ends):
        return None
    rival, ours = ends
    assert rival
    assert ours
    return {
        "trainer": rival | {"dev_f1_when_the_other_ended": f1_at(rival["points"], ours["seconds"])},
        "ours": ours | {"dev_f1_when_the_other_ended": f1_at(ours["points"], rival["seconds"])},
        "goal_dev_f1": GOAL,
        "seconds_to_goal_ratio": ratio(ours["seconds_to_goal"], rival["seconds_to_goal"]),
        "seconds_ratio": ours["seconds"] / rival["seconds"],
    }


def together(races: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Races of several seeds as one: means of the scores, medians of the ratios."""

    def mean(who: str, figure: str) -> float:
        return statistics.fmean(race[who][figure] for race in races)

    figures = ("test_f1", "best_dev_f1", "seconds", "seconds_to_goal", "dev_f1_when_the_other_ended")
    ratios = ("seconds_to_goal_ratio", "seconds_ratio")
    return {
        **{who: {figure: mean(who, figure) for figure in figures} for who in ("trainer", "ours")},
        "goal_dev_f1": GOAL,
        **{name: statistics.median(race[name] for race in races) for name in ratios},
        "races": list(races),
    }


def run_to_the_end(ask: Ask, entrant: Trainer | Ours, rates: Sequence[float]) -> dict[str, Any] | None:
    """One entrant's curve at the best of its learning rates."""
    tried = rates if len(rates) > 1 else ()
    trials = {rate: ask(entrant.model_copy(update={"learning_rate": rate, "epochs": 1})) for rate in tried}
    scores = {rate: best_f1(found["result"]["points"]) for rate, found in trials.items() if found}
    if len(scores) < len(tried):
        return None
    chosen = max(scores, key=scores.__getitem__) if scores else rates[0]
    whole = ask(entrant.model_copy(update={"learning_rate": chosen}))
    if not whole:
        return None
    points = whole["result"]["points"]
    return {
        "name": entrant.name,
        "seed": entrant.seed,
        "dev_f1_after_one_epoch_by_learning_rate": {f"{rate:g}": score for rate, score in scores.items()},
        "learning_rate": chosen,
        "epochs": entrant.epochs,
        "points": points,
        "seconds": points[-1][0],
        "seconds_to_goal": time_to(points, GOAL),
        "best_dev_f1": best_f1(points),
        "test_f1": whole["result"]["test_f1"],
        "process_seconds": whole["process_seconds"],
    }


def best_f1(points: Sequence[Point]) -> float:
    """The highest F1 of a curve."""
    return max(score for _, score in points)


def time_to(points: Sequence[Point], goal: float) -> float:
    """Seconds at which the line through the points, and through 0 at the start, first reaches a score; infinite if never.

    Learning curves bend downwards, so the line is late; the fewer its points, the later.
    """
    for (begin, low), (end, high) in itertools.pairwise([(0.0, 0.0), *points]):
        if high >= goal:
            return begin + (end - begin) * (goal - low) / (high - low)
    return math.inf


def f1_at(points: Sequence[Point], seconds: float) -> float:
    """The best score of a curve up to a time, by the same line."""
    reached = 0.0
    for (begin, low), (end, high) in itertools.pairwise([(0.0, 0.0), *points]):
        part = min(1.0, (seconds - begin) / (end - begin))
        if part > 0:
            reached = max(reached, low + (high - low) * part)
    return reached


def ratio(first: float, second: float) -> float:
    """Of two times: infinite if the first never came, 0 if only the second never did."""
    return first if math.isinf(first) else first / second
