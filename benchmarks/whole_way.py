"""Does the whole way hold on real data? Trains, compresses and serves by the documented commands and compares answers.

    python benchmarks/whole_way.py [data.path=../shared/data/ner_conll2003] [workdir=runs/whole_way]

Stations that stand in `workdir` already are taken as they are. Writes benchmarks/results/whole_way.json and prints a table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402

RESULT = ROOT / "benchmarks/results/whole_way.json"
CHUNK = 32  # texts of one request


class WholeWayConfig(Config):
    """What to run it on."""

    data: DataConfig = DataConfig(path=str(ROOT / "../shared/data/ner_conll2003"))
    workdir: str = Field("runs/whole_way", description="where the bundles go")
    epochs: int = 3


def main(config: WholeWayConfig) -> None:
    """Runs the stations and writes the result."""
    workdir = Path(config.workdir).absolute()
    trained, small = workdir / "agent", workdir / "agent-small"
    seconds = {
        "train": run_station(trained, "training/run.py", f"data.path={config.data.path}", f"epochs={config.epochs}", f"output={trained}"),
        "compress": run_station(small, "compression/run.py", f"bundle={trained}", f"output={small}"),
    }  # fmt: skip
    bundle = Bundle.load(small)
    test = load_splits(config.data, bundle.task).test
    result = {
        "data": Path(config.data.path).name,
        "test_trained": {e.split: e.report.metrics for e in Bundle.load(trained).manifest.evaluations}["test"],
        "compression": json.loads((small / "report.json").read_text())["model_rows"],
        "served": compare_served(small, test),
        "station_seconds": seconds,
        "lineage": bundle.manifest.lineage.model_dump(mode="json", exclude={"config"}),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("test_trained", "served", "station_seconds")}, indent=1))


def run_station(output: Path, *arguments: str) -> float | None:
    """Runs a command unless its bundle stands; returns its seconds."""
    if (output / "bundle.json").is_file():
        return None
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return time.perf_counter() - started


def compare_served(path: Path, test: list[Any]) -> dict[str, Any]:
    """Predicts the test split over HTTP and in process, one request after another, and scores what was served."""
    from serving.inference.engine import Engine
    from serving.run import ServingConfig, running

    bundle = Bundle.load(path)
    texts = [bundle.task.text_of(example) for example in test]
    chunks = [texts[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
    with running(ServingConfig(bundle=str(path), port=8123)) as url:
        served = [answer for chunk in chunks for answer in post(url, chunk)]
    engine = Engine(bundle)
    own = [answer for chunk in chunks for answer in engine.predict(chunk)]
    alone = [engine.predict([text])[0] for text in texts]
    return {
        "texts": len(texts),
        "equal_to_own_predictions": sum(json.loads(json.dumps(a)) == b for a, b in zip(own, served, strict=True)),
        "same_entities_as_each_text_alone": sum(entities(a) == entities(b) for a, b in zip(alone, served, strict=True)),
        "character_span_f1": span_f1(test, served),
        "precision": engine.variant.precision,
    }


def post(url: str, texts: list[str]) -> list[list[dict[str, Any]]]:
    """One request."""
    request = urllib.request.Request(
        url, data=json.dumps({"inputs": texts}).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[list[dict[str, Any]]] = json.load(answer)
    return found


def entities(answer: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """What was found, without scores."""
    return [(item["entity_group"], item["start"], item["end"]) for item in answer]


def span_f1(test: list[Any], served: list[list[dict[str, Any]]]) -> float:
    """Exact entity F1 over characters of the raw texts, as a caller sees it."""
    gold = [{(span.label, span.start, span.end) for span in example.spans} for example in test]
    found = [set(entities(answer)) for answer in served]
    hits = sum(len(a & b) for a, b in zip(gold, found, strict=True))
    return 2 * hits / (sum(map(len, gold)) + sum(map(len, found)))


if __name__ == "__main__":
    sys.exit(cli.run(WholeWayConfig, main, usage=__doc__ or ""))
