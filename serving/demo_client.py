"""Serves a bundle, asks it over HTTP, shows what came back and some of its metrics, and stops: the demo's last station."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pydantic import Field

from agent import telemetry
from agent.config import cli
from serving.run import ServingConfig, running

_USAGE = """
Serves a bundle behind HAProxy, predicts a few texts over HTTP, prints the answers and some metrics, and stops.

  python serving/demo_client.py bundle=DIR [texts=['...', '...']] [key.path=value ...]
"""
_SHOWN = (
    telemetry.REQUESTS,
    telemetry.TEXTS,
    telemetry.TOKENS,
    telemetry.PADDED_TOKENS,
    telemetry.ENTITIES,
    telemetry.STAGE_SECONDS,
)
_TIMEOUT_S = 30


class DemoConfig(ServingConfig):
    """What to serve and what to ask."""

    texts: tuple[str, ...] = Field(
        (
            "Could Ingrid Halvorsen call the Port of Rotterdam about the delayed containers before Friday?",
            "Minutes: Tomás Echeverría moved that Greenbank Cycling Club lease the old depot in Leeds.",
            "my laptop died at heathrow and nobody at Brightwater IT picks up, please ask Priya Nair to ring me",
            "The university of Padua and Doctors Without Borders opened a clinic on the Zambezi, Dr. O'Connell said.",
            "Nothing to report this week; the next call is on Tuesday at ten.",
        ),
        description="what to predict",
    )
    second: str = Field(
        "This example is news.", description="the second text of every input, of an agent that takes two"
    )
    question: str = Field(
        "Which person is mentioned?", description="what is asked about every text, of an agent that answers questions"
    )

    def inputs(self, fields: Sequence[str]) -> list[Any]:
        """The inputs of a request to an agent whose inputs have these texts."""
        if "question" in fields:
            return [{"question": self.question, "context": text} for text in self.texts]
        return [dict(zip(fields, (text, self.second), strict=True)) if len(fields) > 1 else text for text in self.texts]


def main(config: DemoConfig) -> None:
    """Serves, asks, shows, stops."""
    with running(config) as url:
        answers = _ask(url, config.inputs(_fields(url)))
        for text, answer in zip(config.texts, answers, strict=True):
            print("", text, *map(_describe, answer if isinstance(answer, list) else [answer]), sep="\n", flush=True)
        print("", "metrics (GET /metrics):", *_metrics(url), "", sep="\n", flush=True)


def _fields(url: str) -> list[str]:
    """The texts of one input, as the agent's card names them."""
    with urllib.request.urlopen(f"{url}/info", timeout=_TIMEOUT_S) as answer:
        found: list[str] = json.load(answer)["inputs"]
    return found


def _ask(url: str, inputs: list[Any]) -> list[Any]:
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        found: list[Any] = json.load(answer)
    return found


def _describe(item: dict[str, Any]) -> str:
    if "start" not in item:
        return f"    {item['label']:<24} {item['score']:.3f}"
    kind, words = item.get("entity_group") or item.get("entity") or "answer", item.get("word", item.get("answer"))
    return f"    {kind:<6} {words!r:<32} {item['start']:>3}-{item['end']:<3} score {item['score']:.3f}"


def _metrics(url: str) -> Iterator[str]:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"{url}/metrics", timeout=_TIMEOUT_S) as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    for metric in _SHOWN:
        totals: dict[str, float] = defaultdict(float)  # over all replicas
        for sample in families[metric.name].samples if metric.name in families else ():
            if sample.name.endswith(("_total", "_count", "_sum")):
                labels = ", ".join(f"{key}={value}" for key, value in sample.labels.items() if key != "replica")
                totals[f"{sample.name}{{{labels}}}"] += sample.value
        yield from (f"  {name} {total:g}" for name, total in totals.items())


if __name__ == "__main__":
    sys.exit(cli.run(DemoConfig, main, usage=_USAGE))
