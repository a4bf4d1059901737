"""Triples from raw text on real data: a tagger and an agent of relations, each trained by the documented command, scored end to end.

    python benchmarks/training_quality/triples.py [data=DIR/rel_semeval2010_task8] [seed=0] [epochs=3]

The tagger learns the two nominals that each sentence of SemEval-2010 task 8 marks, the agent of relations their relation; what serving/compare.py
says of both on the test split is written beside each one's own score. Other nominals of a sentence are not marked, so the tagger has to learn
which ones people asked about. Writes benchmarks/results/triples.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.files import write_file  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.training_quality.few_labels import fine_tune  # noqa: E402

RESULT = ROOT / "benchmarks/results/triples.json"
_DEV = 800  # of the training sentences, the last ones


class TriplesConfig(Config):
    """What is trained."""

    data: str = Field(str(ROOT / "../shared/data/rel_semeval2010_task8"), description="directory of the data")
    seed: int = 0
    epochs: int = Field(3, ge=1, description="of both")
    workdir: str = Field("runs/triples", description="where data and agents go")


def main(config: TriplesConfig) -> None:
    """Trains both, scores them together, and prints the result."""
    place = Path(config.workdir).absolute()
    relations = {name: read(Path(config.data) / f"{name}.jsonl") for name in ("train", "test")}
    relations["dev"] = relations["train"][-_DEV:]
    del relations["train"][-_DEV:]
    scores: dict[str, dict[str, float]] = {}
    for name, kind in (("tagger", "token_classification"), ("relations", "relation_extraction")):
        change = tagged if name == "tagger" else dict
        write(
            place / f"{name}-data", {split: [change(record) for record in found] for split, found in relations.items()}
        )
        settings = (f"task.kind={kind}", f"epochs={config.epochs}", f"seed={config.seed}")
        scores[name] = fine_tune(place / f"{name}-data", place / name, *settings)
    output = place / "triples.json"
    bundles = (f"bundle={place / 'relations'}", f"entities={place / 'tagger'}")
    subprocess.run(
        [sys.executable, "serving/compare.py", *bundles, f"data.path={place / 'relations-data'}", f"output={output}"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    triples = json.loads(output.read_text())["bundle"]["report"]
    result = {
        "machine": machine(),
        "config": config.model_dump(mode="json", include={"seed", "epochs"}),
        "tagger_f1": scores["tagger"]["f1"],
        "relations_macro_f1": scores["relations"]["f1"],
        "triples": {name: triples["metrics"][name] for name in ("f1", "precision", "recall")},
        "gold_triples": triples["support"],
    }
    write_file(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def read(file: Path) -> list[dict[str, Any]]:
    """The records of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def tagged(record: dict[str, Any]) -> dict[str, Any]:
    """Both entities of a sentence as a tagger's spans."""
    spans = [{"start": start, "end": end, "label": "NOMINAL"} for start, end in (record["e1"], record["e2"])]
    return {"text": record["text"], "spans": spans}


def write(directory: Path, splits: dict[str, list[dict[str, Any]]]) -> None:
    """A data set as JSON lines."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, records in splits.items():
        write_file(directory / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    sys.exit(cli.run(TriplesConfig, main, usage=__doc__ or ""))
