"""Texts a second of an agent served over HTTP, beside transformers' pipeline over HTTP and without it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from benchmarks.common.server_process import ROOT, running
from benchmarks.load.visit import Plan, Visit, entities_of
from benchmarks.rivals.roster import OURS, Entrant, pipeline_server

BATCH_SIZES = (1, 8, 32)
_CHECKED_TEXTS, _ASKED_TEXTS = 48, 500
# Ray puts its workers behind all other processes (15); the rivals' have the usual priority, and so has ours beside them.
NICENESS = 0
_LEAST_AGREEMENT = 0.5  # of int8 with PyTorch: that the rival answers the same question, not how well


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        kind: Of the task.
        pipeline: As transformers names it.
        trained: Bundle that the pipeline loads.
        compressed: Bundle that we serve.
        batch_texts: In a request of several.
    """

    kind: str
    pipeline: str
    trained: Path
    compressed: Path
    batch_texts: int


def measure_serving(served: Served, data: DataConfig, *, seconds: float, threads: int) -> dict[str, Any]:
    """One round.

    Raises:
        ServerError: A server does not start or answers wrongly.
    """
    from serving.inference.engine import Engine, EngineConfig

    bundle = Bundle.load(served.compressed)
    task = bundle.task
    texts = [task.text_of(example) for example in load_splits(data, task).test[:_ASKED_TEXTS]]
    if task.learns_from_text:
        texts = [with_mask(text, task.trial_input(bundle.encoder)) for text in texts]
    inputs = [text if len(task.input_fields) == 1 else task.fields_of(text) for text in texts]
    engine = Engine(bundle, EngineConfig(provider="cpu", sessions=1, threads_per_session=1), num_cpus=1)
    expected = [decision_of(engine.predict([text])[0]) for text in texts[:_CHECKED_TEXTS]]
    del engine
    plan = Plan(inputs, expected, seconds, decision_of, served.batch_texts, _LEAST_AGREEMENT)
    bare = bare_rates(served, inputs, seconds=seconds, threads=threads)
    best_size = int(max(bare, key=bare.__getitem__))
    return {
        "ours": _visit(replace(OURS, environment={"RAY_worker_niceness": str(NICENESS)}), served.compressed, plan),
        "pipeline": _visit(pipeline_server(served.pipeline, served.kind, batch_size=best_size), served.trained, plan),
        "bare": bare,
    }


def with_mask(text: str, mask: str) -> str:
    """The text with a mask in the place of its middle word."""
    words = text.split()
    words[len(words) // 2] = mask
    return " ".join(words)


def bare_rates(served: Served, inputs: Sequence[Any], *, seconds: float, threads: int) -> dict[str, float]:
    """Texts a second of the pipeline in a process of its own, by batch size."""
    order = {
        "model": str(served.trained), "pipeline": served.pipeline, "kind": served.kind, "threads": threads,
        "inputs": inputs, "batch_sizes": BATCH_SIZES, "seconds": seconds,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.task_comparison.plain_pipeline"],
        cwd=ROOT, input=json.dumps(order), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _visit(entrant: Entrant, bundle: Path, plan: Plan) -> dict[str, Any]:
    with (
        running(entrant, sys.executable, bundle) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures: dict[str, Any] = runner.run(Visit(server, plan).measure_rates())
        return figures


def decision_of(answer: Any) -> Any:
    """What an answer says, without its scores: entities, the best label or sub-word, or the answer to a question; None of nothing."""
    if isinstance(answer, Mapping):
        answer = [answer]
    if answer and isinstance(answer[0], list):
        answer = answer[0]
    if not answer:
        return None
    if "entity_group" in answer[0]:
        return entities_of(answer)
    return next((answer[0][name] for name in ("label", "token_str", "answer") if name in answer[0]), None)


def serving_ratios(found: Mapping[str, Any], batch_texts: int) -> dict[str, float]:
    """Texts a second of a round and our multiple of the pipeline: asked alike, and each in the way that is fastest for it."""
    ours, rival = ({"single": who["single"]["per_s"], "batch": who["batch"]["per_s"] * batch_texts}
                   for who in (found["ours"], found["pipeline"]))  # fmt: skip
    bare = max(found["bare"].values())
    return {
        "ours_single": ours["single"],
        "ours_batch": ours["batch"],
        "pipeline_single": rival["single"],
        "pipeline_batch": rival["batch"],
        "bare_pipeline": bare,
        "ratio_single": ours["single"] / rival["single"],
        "ratio_batch": ours["batch"] / rival["batch"],
        "ratio": max(ours.values()) / max(*rival.values(), bare),
    }
