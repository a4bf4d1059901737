"""Serves a bundle, asks it over HTTP, shows what came back and some of its metrics, and stops: the demo's last station."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
_REPLY_TOKENS = 60


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
    marked: tuple[str, ...] = Field(
        (
            "<e1>Ingrid Halvorsen</e1> works for <e2>Greenbank Cycling Club</e2> and rarely travels to Leeds.",
            "The founder of <e1>Brightwater IT</e1>, <e2>Priya Nair</e2>, was seen in Rotterdam.",
            "<e2>Doctors Without Borders</e2>, based in <e1>Padua</e1>, buys everything from Initech.",
            "Tomás Echeverría and <e1>Bruno Keller</e1> spoke about Initech on the train to <e2>Leeds</e2>.",
        ),
        description="what to predict by an agent that relates two marked entities",
    )
    second: str = Field(
        "This example is news.", description="the second text of every input, of an agent that takes two"
    )
    question: str = Field(
        "Which person is mentioned?", description="what is asked about every text, of an agent that answers questions"
    )

    said: str = Field(
        "Where is this from?", description="what is said before every text to an agent that goes on with conversations"
    )

    def texts_for(self, card: Mapping[str, Any]) -> list[str]:
        """What an agent is asked about; its card says what its mask is, which takes the place of a word."""
        texts = self.marked if card["task"] == "relation_extraction" else self.texts
        return [_masked(text, card["mask"]) for text in texts] if card["mask"] else list(texts)

    def inputs(self, card: Mapping[str, Any]) -> list[Any]:
        """The inputs of a request to an agent, as its card describes them."""
        texts, fields = self.texts_for(card), card["inputs"]
        if "question" in fields:
            return [{"question": self.question, "context": text} for text in texts]
        return [dict(zip(fields, (text, self.second), strict=True)) if len(fields) > 1 else text for text in texts]


def main(config: DemoConfig) -> None:
    """Serves, asks, shows, stops."""
    with running(config) as url:
        card = _card(url)
        texts = config.texts_for(card)
        if card["task"] == "text_generation":
            texts = [f"{config.said} {text}" for text in texts]
            answers = [_reply(url, text) for text in texts]
        else:
            answers = _posted(url, {"inputs": config.inputs(card)})
        for text, answer in zip(texts, answers, strict=True):
            print("", text, *map(_describe, answer if isinstance(answer, list) else [answer]), sep="\n", flush=True)
        print("", "metrics (GET /metrics):", *_metrics(url), "", sep="\n", flush=True)


def _card(url: str) -> dict[str, Any]:
    """What the agent says of itself."""
    with urllib.request.urlopen(f"{url}/info", timeout=_TIMEOUT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _masked(text: str, mask: str) -> str:
    """A text with a mask in the place of the word in its middle."""
    words = text.split(" ")
    words[len(words) // 2] = mask
    return " ".join(words)


def _posted(url: str, asked: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(url, data=json.dumps(asked).encode(), headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return json.load(answer)


def _reply(url: str, text: str) -> dict[str, Any]:
    """What an agent says in a conversation."""
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": _REPLY_TOKENS}
    message: dict[str, Any] = _posted(f"{url}/v1/chat/completions", asked)["choices"][0]["message"]
    return message


def _describe(item: dict[str, Any]) -> str:
    if "content" in item:
        return f"    {item['content']}"
    if written := [text for name, text in item.items() if name.endswith("_text")]:
        return f"    {written[0]:<48} {item['score']:.3f}"
    if "token_str" in item:
        return f"    {item['token_str']:<24} {item['score']:.3f}"
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
