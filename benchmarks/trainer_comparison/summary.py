"""Rates and tables from measurements."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import DataError
from benchmarks.common.aim import Aim
from benchmarks.trainer_comparison.base import Step
from benchmarks.trainer_comparison.workbench import Found

WARM_UP_STEPS = 3
FLOPS = 6  # of a parameter and a token: 2 forwards, 4 backwards (arXiv 2001.08361); products within attention are not counted


def rates(steps: Sequence[Step]) -> dict[str, float]:
    """Sentences and tokens a second, without the first steps; `pass_sentences_per_s` has them all.

    Raises:
        DataError: There are no others.
    """
    if len(steps) <= WARM_UP_STEPS:
        raise DataError(f"{len(steps)} steps, of which {WARM_UP_STEPS} do not count", remedy="give more sentences")
    seconds, sentences, tokens, padded = (sum(column) for column in zip(*steps[WARM_UP_STEPS:], strict=True))
    return {
        "sentences_per_s": sentences / seconds,
        "tokens_per_s": tokens / seconds,
        "padded_tokens_per_s": padded / seconds,
        "pass_sentences_per_s": sum(step[1] for step in steps) / sum(step[0] for step in steps),
    }


def row(name: str, runs: Sequence[Found], *, gflops: float | None, parameters: int | None) -> dict[str, Any]:
    """A contestant's repetitions as one row: medians, the spread of sentences/s, use of the ceiling.

    Args:
        name: The contestant's.
        runs: At least one.
        gflops: The ceiling of its precision and threads, if it is known.
        parameters: Of the model's products.
    """
    each = [rates(run["result"]["steps"]) for run in runs]
    middle = {key: statistics.median(found[key] for found in each) for key in each[0]}
    speeds = [found["sentences_per_s"] for found in each]
    found = {
        "name": name,
        "precision": runs[0]["result"]["precision"],
        "repeats": len(runs),
        **middle,
        "sentences_per_s_spread": [min(speeds), max(speeds)],
        "padding_share": 1 - middle["tokens_per_s"] / middle["padded_tokens_per_s"],
        "peak_bytes_together": max(run["memory"]["together"] for run in runs),
        "peak_bytes_largest_process": max(run["memory"]["largest"] for run in runs),
        "each": each,
        "others_before": [run["others_before"] for run in runs],
        "others_during": [run["others_during"] for run in runs],
    }
    if gflops and parameters:
        found["mfu"] = FLOPS * parameters * middle["tokens_per_s"] / gflops / 1e9
        found["mfu_with_padding"] = FLOPS * parameters * middle["padded_tokens_per_s"] / gflops / 1e9
    return found


def ceilings(runs: Mapping[int, Sequence[Found]]) -> dict[int, dict[str, Any]]:
    """GFLOP/s by threads, then by type and shape: the best of the repetitions."""
    found = {}
    for threads, repeats in runs.items():
        first = repeats[0]["result"]
        found[threads] = {
            "parameters": first["parameters"],
            "gflops": {
                dtype: {shape: max(run["result"]["gflops"][dtype][shape] for run in repeats) for shape in shapes}
                for dtype, shapes in first["gflops"].items()
            },
        }
    return found


def line(found: Mapping[str, Any]) -> str:
    """A row of the table."""
    low, high = found["sentences_per_s_spread"]
    use = f"{found['mfu']:6.1%} ({found['mfu_with_padding']:.1%} padded)" if "mfu" in found else "-"
    return (
        f"{found['name']:54} {found['precision']} {found['sentences_per_s']:7.1f} ({low:.1f}-{high:.1f}) "
        f"{found['tokens_per_s']:8,.0f} {found['padding_share']:6.1%}  {use:24} "
        f"{found['peak_bytes_together'] / 1e6:6,.0f} {found['peak_bytes_largest_process'] / 1e6:6,.0f}"
    )


HEAD = (
    f"{'contestant':54} type sentences/s (spread)   tokens/s padding  use of matrix ceiling    "
    "MB, all processes, largest"
)


def scaling(one: Sequence[Found], two: Sequence[Found]) -> dict[str, float]:
    """Throughput of two processes that exchange nothing over that of one, each with half of a step: a bound for two workers."""
    gains = {}
    for figure in ("gflops", "sentences_per_s"):
        alone, both = (statistics.median(run["result"][figure] for run in runs) for runs in (one, two))
        gains |= {f"{figure}_one": alone, f"{figure}_two": both, f"{figure}_gain": both / alone}
    return gains


def scaling_lines(scales: Mapping[str, Mapping[str, float]], aims: Sequence[Aim]) -> list[str]:
    """Lines with the bounds of scaling and the share that the workers reach."""
    lines = []
    for tokens, gains in scales.items():
        lines.append(
            f"ceiling of scaling, {int(tokens):,} tokens: two processes without Ray and without exchange, each with half of a step, do "
            f"{gains['sentences_per_s_gain']:.2f} times the training of one; of plain matrix products {gains['gflops_gain']:.2f} times"
        )
        reached = next(
            (aim.measured for aim in aims if "two workers" in aim.name and f"{int(tokens):,} tok" in aim.name), None
        )
        if reached:
            lines.append(f"  two workers reach {reached / gains['sentences_per_s_gain']:.0%} of that")
    return lines


def curve_lines(quality: Mapping[str, Any]) -> list[str]:
    """Lines with the learning curves."""
    lines = []
    for race, who in itertools.product(quality["races"], ("trainer", "ours")):
        run = race[who]
        points = "  ".join(f"{seconds:.0f} s {score:.4f}" for seconds, score in run["points"])
        lines += [
            f"{run['name']}, seed {run['seed']}, learning rate {run['learning_rate']:g} "
            f"(one epoch: {run['dev_f1_after_one_epoch_by_learning_rate'] or 'not tried'}), dev F1: {points}",
            f"  best dev F1 {run['best_dev_f1']:.4f}, test F1 {run['test_f1']:.4f}, {run['seconds']:.0f} s; "
            f"dev F1 {race['goal_dev_f1']} {when(run['seconds_to_goal'])}; "
            f"in the time of the other's run {run['dev_f1_when_the_other_ended']:.4f}",
        ]
    return lines


def when(seconds: float) -> str:
    """A moment of a run."""
    return f"after {seconds:.0f} s" if math.isfinite(seconds) else "never"


def finite(value: Any) -> Any:
    """Plain values for JSON, where a number that is not finite is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
