"""From rounds of measurements to one figure each with its spread, and to the aims. Pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.common.aim import Aim
from benchmarks.load.visit import BATCH_TEXTS, CURVE, IN_FLIGHT

Figures = Mapping[str, Any]
Pick = Callable[[Figures], float | None]

OURS, ONE_REPLICA = "ours", "ours-one-replica"


def single(figures: Figures) -> float:
    """Requests a second of one text each."""
    return float(figures["single"]["per_s"])


def batch(figures: Figures) -> float:
    """Texts a second in requests of 32."""
    return float(figures["batch"]["per_s"]) * BATCH_TEXTS


def lone(figures: Figures) -> float | None:
    """Median seconds of a request when nothing else runs."""
    return figures["lone"]["p50_s"]  # type: ignore[no-any-return]


PICKS: Mapping[str, Pick] = {
    "single_requests_per_s": single,
    "single_p50_s": lambda figures: figures["single"]["p50_s"],
    "single_p99_s": lambda figures: figures["single"]["p99_s"],
    "batch_texts_per_s": batch,
    "lone_p50_s": lone,
    "lone_p99_s": lambda figures: figures["lone"]["p99_s"],
    "memory_bytes": lambda figures: figures["memory_bytes"],
    "callers_cores": lambda figures: figures["single"]["cores"]["callers"],
    "others_cores": lambda figures: figures["single"]["cores"]["others"],
}


def medians(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Each figure's median over the rounds with the lowest and the highest; the curve's points; all errors together."""
    found: dict[str, Any] = {}
    for name, pick in PICKS.items():
        values = [value for figures in rounds if (value := pick(figures)) is not None]
        if values:
            found[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return found | {"curve": curve(rounds), "errors": errors(rounds)}


def curve(rounds: Sequence[Figures]) -> list[dict[str, float]]:
    """Throughput and latency by requests in flight, medians over the rounds."""
    points = {1: "lone", IN_FLIGHT: "single"} | dict.fromkeys(CURVE, "curve")
    found = []
    for callers, place in sorted(points.items()):
        kept = [figures[place][str(callers)] if place == "curve" else figures[place] for figures in rounds]
        answered = [point for point in kept if point["p50_s"] is not None]
        if answered:
            point = {name: statistics.median(one[name] for one in answered) for name in ("per_s", "p50_s", "p99_s")}
            found.append({"in_flight": callers, **point})
    return found


def errors(rounds: Sequence[Figures]) -> dict[str, int]:
    """Answers other than 200, by status, over everything that was measured."""
    found: dict[str, int] = {}
    for figures in rounds:
        points = [value for value in figures.values() if isinstance(value, dict) and "errors" in value]
        for point in (*points, *figures["curve"].values()):
            for status, count in point["errors"].items():
                found[status] = found.get(status, 0) + count
    return found


def best(entrants: Mapping[str, Figures], pick: Pick, *, lowest: bool = False) -> str | None:
    """The rival with the best median; None where none was measured."""
    scores = {
        name: statistics.median(values)
        for name, entrant in entrants.items()
        if not entrant["ours"] and (values := [value for figures in entrant["rounds"] if (value := pick(figures))])
    }
    return (min if lowest else max)(scores, key=lambda name: scores[name]) if scores else None


def ratio(
    ours: Sequence[Figures], other: Sequence[Figures], pick: Pick, pick_other: Pick | None = None
) -> float | None:
    """The median over the rounds of ours divided by the other in the same round, so that a machine that drifts does not count."""
    pairs = ((pick(one), (pick_other or pick)(two)) for one, two in zip(ours, other, strict=False))
    ratios = [one / two for one, two in pairs if one is not None and two]
    return statistics.median(ratios) if ratios else None


def aims(entrants: Mapping[str, Figures], ceilings: Sequence[Figures]) -> list[Aim]:
    """What our server is to reach at its defaults."""
    ours, alone_on_a_core = (entrants.get(name, {}).get("rounds", []) for name in (OURS, ONE_REPLICA))

    def beside(pick: Pick, *, lowest: bool = False) -> tuple[str, float | None]:
        name = best(entrants, pick, lowest=lowest)
        return (name or "the best rival"), (ratio(ours, entrants[name]["rounds"], pick) if name else None)

    def under(pick: Pick, ceiling: str) -> float | None:
        return ratio(ours, ceilings, pick, lambda figures: figures[ceiling])

    one, many, alone = beside(single), beside(batch), beside(lone, lowest=True)
    half = ratio(ours, ceilings, lambda figures: figures["half"]["p99_s"], lambda figures: figures["bare_p50_s"])
    tail = ratio(ours, ours, lambda figures: figures["tail"]["p50_s"], lambda figures: figures["single"]["p50_s"])
    return [
        Aim(f"single texts, 32 in flight, over {one[0]}", one[1], 1.4),
        Aim(f"single texts, 32 in flight, over {one[0]} (stretch)", one[1], 1.5),
        Aim("single texts, 32 in flight, part of the ceiling", under(single, "single_texts_per_s"), 0.75),
        Aim("single texts, over one replica on one core", ratio(ours, alone_on_a_core, single), 1.9),
        Aim(f"32 texts a request, 8 in flight, over {many[0]}", many[1], 1.4),
        Aim("32 texts a request, 8 in flight, part of the sorted ceiling", under(batch, "sorted_texts_per_s"), 0.85),
        Aim(f"lone request, p50 over that of {alone[0]}", alone[1], 1.0, at_least=False),
        Aim("p99 at half of peak load over bare inference of one text", half, 5.0, at_least=False),
        Aim("p50 of short texts beside 5% of 400 words, over that without", tail, 1.5, at_least=False),
    ]
