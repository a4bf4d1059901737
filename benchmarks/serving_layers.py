"""Where a request's CPU time goes: microseconds a request of every part of a server, and of the stages within a replica.

    python benchmarks/serving_layers.py [bundle=DIR] [data.path=DIR] [servers=[ours,fastapi-onnx]] [rounds=3] [seconds=8]
    python benchmarks/serving_layers.py checkouts={before: ../base, now: .}       # our server in several versions of this code
    python benchmarks/serving_layers.py servers=[ours] 'options={off: [drift.watch=false], on: []}'      # with several settings

Servers run one at a time, in turns, each with a number of callers of one text each. CPU is what Linux' scheduler counts for
every thread (schedstat); stages within a replica are its own metrics. Writes benchmarks/results/serving_layers.json.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import uvloop  # noqa: E402
from pydantic import Field  # noqa: E402

from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from benchmarks.common.load_generator import LoadGenerator  # noqa: E402
from benchmarks.common.server_process import Server, running  # noqa: E402
from benchmarks.load.visit import IN_FLIGHT, summary  # noqa: E402
from benchmarks.rivals.installation import python_of  # noqa: E402
from benchmarks.rivals.roster import Entrant  # noqa: E402
from benchmarks.serving_throughput import chosen, machine  # noqa: E402

Figures = dict[str, Any]
_STAGE = re.compile(r'bert_agent_stage_seconds_sum\{[^}]*stage="(\w+)"[^}]*\} (\S+)')
_STAGES = ("tokenize", "infer", "decode")


class LayersBenchmark(Config):
    """What is measured."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent to serve; `make demo` makes this one")
    data: DataConfig = Field(DataConfig(), description="whose test split is sent as raw text")
    servers: tuple[str, ...] = Field(("ours", "fastapi-onnx"), description="servers to measure, by name")
    checkouts: Mapping[str, str] = Field(
        {"now": str(ROOT)}, description="versions of our server: {name: directory of a checkout}"
    )
    options: Mapping[str, tuple[str, ...]] = Field(
        {"": ()},
        description="settings of our server: {name: [key=value, ...]}; {place} is a directory that lasts as long as the server",
    )
    bundles: Mapping[str, str] = Field(
        {}, description="the same agent for versions that cannot read `bundle`: {name: directory}"
    )
    rounds: int = Field(3, ge=1, description="turns that every server takes")
    seconds: float = Field(8, gt=0, description="length of a measurement")
    environments: str = Field(".venv-rivals", description="where the environments of rivals lie")
    result: str = Field(str(ROOT / "benchmarks/results/serving_layers.json"), description="JSON file to write")


def main(config: LayersBenchmark) -> None:
    """Measures in turns, writes the medians, prints them."""
    bundle = Bundle.load(Path(config.bundle).absolute())
    texts = [bundle.task.text_of(example) for example in load_splits(config.data, bundle.task).test]
    found: dict[str, list[Figures]] = {}
    for turn in range(config.rounds):
        for entrant in chosen(config.servers):
            python = python_of(entrant, Path(config.environments).absolute(), limit_s=900)
            for name, version, variant in _variants(entrant, config):
                served = Path(config.bundles.get(version, bundle.path)).absolute()
                root = Path(config.checkouts.get(version, ROOT)).absolute()
                with running(variant, python, served, root=root) as server:
                    figures = _run(_measured(server, texts, config.seconds))
                found.setdefault(name, []).append(figures)
                print(f"round {turn + 1} {name}: {figures['per_s']:.0f} requests/s", flush=True)
    medians = {name: _medians(rounds) for name, rounds in found.items()}
    told = {"machine": machine(), "in_flight": IN_FLIGHT, "median": medians, "rounds": found}
    Path(config.result).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(*_table(medians), sep="\n")


def _variants(entrant: Entrant, config: LayersBenchmark) -> list[tuple[str, str, Entrant]]:
    """Names, versions and commands of a server: rivals have one, ours one for each version and its settings."""
    if not entrant.ours:
        return [(entrant.name, "", entrant)]
    return [
        (
            " ".join(filter(None, (entrant.name, version, options))),
            version,
            replace(entrant, command=entrant.command + given),
        )
        for version in config.checkouts
        for options, given in config.options.items()
    ]


def _run(work: Coroutine[Any, Any, Figures]) -> Figures:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _measured(server: Server, texts: list[str], seconds: float) -> Figures:
    """Requests a second, and microseconds of CPU for each."""
    callers = LoadGenerator(server.port, texts, path=server.entrant.protocol.path, body=server.entrant.protocol.body)
    await _ready(server, callers, texts[0])
    await callers.closed_loop(2, IN_FLIGHT)
    own, before, stages = time.process_time(), server.cpu_seconds(), _stages(server)
    answers = await callers.closed_loop(seconds, IN_FLIGHT)
    own, after, later = time.process_time() - own, server.cpu_seconds(), _stages(server)
    good = sum(answer.status == 200 for answer in answers)
    parts = {part: (used - before.get(part, 0.0)) * 1e6 / good for part, used in after.items()}
    within = {stage: (later[stage] - stages.get(stage, 0.0)) * 1e6 / good for stage in _STAGES if stage in later}
    figures = summary(answers, seconds, lead=0.1)
    return {
        "per_s": figures["per_s"],
        "p50_s": figures["p50_s"],
        "p99_s": figures["p99_s"],
        "errors": figures["errors"],
        "cpu_us": {part: round(used, 1) for part, used in sorted(parts.items()) if used > 0.5},
        "stages_us": {stage: round(used, 1) for stage, used in within.items()},
        "callers_us": round(own * 1e6 / good, 1),
        "memory_bytes": server.memory_bytes(),
    }


async def _ready(server: Server, callers: LoadGenerator, text: str) -> None:
    for _ in range(900):
        server.check_alive()
        try:
            await callers.answer(text)
            return
        except (OSError, EOFError, ValueError):
            await asyncio.sleep(0.2)
    raise SystemExit(f"{server.entrant.name} did not start: {server.log_tail()}")


def _stages(server: Server) -> dict[str, float]:
    """Seconds by stage of all replicas; wall time, which on a busy core is more than CPU."""
    if not server.entrant.ours:
        return {}
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for stage, value in _STAGE.findall(text):
        found[stage] = found.get(stage, 0.0) + float(value)
    return found


def _medians(rounds: list[Figures]) -> Figures:
    def middle(name: str) -> dict[str, float]:
        parts = {part for figures in rounds for part in figures[name]}
        return {part: statistics.median(figures[name].get(part, 0.0) for figures in rounds) for part in sorted(parts)}

    plain = {name: statistics.median(figures[name] for figures in rounds) for name in ("per_s", "p50_s", "p99_s")}
    return plain | {"cpu_us": middle("cpu_us"), "stages_us": middle("stages_us")}


def _table(medians: Mapping[str, Figures]) -> list[str]:
    """Markdown: a row for each part, a column for each server."""
    names = list(medians)
    rows = {
        "requests/s": [f"{medians[name]['per_s']:.0f}" for name in names],
        "CPU a request, all parts": [f"{sum(medians[name]['cpu_us'].values()):.0f}" for name in names],
    }
    for kind in ("cpu_us", "stages_us"):
        for part in sorted({part for name in names for part in medians[name][kind]}):
            label = part if kind == "cpu_us" else f"(replica, wall time: {part})"
            rows[label] = [f"{medians[name][kind].get(part, 0):.0f}" for name in names]
    head = [f"| microseconds | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return ["", *head, *(f"| {label} | {' | '.join(values)} |" for label, values in rows.items())]


if __name__ == "__main__":
    sys.exit(cli.run(LayersBenchmark, main, usage=__doc__ or ""))
