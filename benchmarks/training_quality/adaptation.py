"""Does a field's raw text help where labels are few? An encoder that learned hidden words of the field beside one that did not, fine-tuned alike.

    python benchmarks/training_quality/adaptation.py [sentences=300] [seeds=[0,1,2,3,4]] [adapt=[epochs=2,optimizer.learning_rate=1e-4]]

The encoder (minilm) learns the hidden words of mlm_craft_biomed by `task.kind=masked_language_modelling`; then it and minilm itself are fine-tuned by
the defaults on the first sentences of ner_bc5cdr, with the same seeds. Adds to benchmarks/results/adaptation.json what is not in it yet, and prints a table.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.files import write_file  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.training_quality.few_labels import cut, fine_tune  # noqa: E402

RESULT = ROOT / "benchmarks/results/adaptation.json"


class AdaptationConfig(Config):
    """What to compare."""

    data: str = Field(str(ROOT / "../shared/data"), description="directory of the data sets")
    text: str = Field("mlm_craft_biomed", description="name of the raw text's set")
    labels: str = Field("ner_bc5cdr", description="name of the labelled set")
    sentences: int = Field(300, ge=1, description="training sentences, and as many of dev")
    test_sentences: int = Field(1_000, ge=1, description="of the test split")
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), description="of fine-tuning")
    adapt: tuple[str, ...] = Field(
        ("epochs=2", "optimizer.learning_rate=1e-4"), description="further keys of the training on raw text"
    )
    workdir: str = Field("runs/adaptation", description="where slices and bundles go")


def main(config: AdaptationConfig) -> None:
    """Adapts unless that was done by the same settings, measures the seeds that are missing, and prints all."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    place = Path(config.workdir).absolute()
    about = config.model_dump(mode="json", include={"text", "labels", "sentences", "test_sentences", "adapt"})
    if result.get("config") != about:
        result = {"machine": machine(), "config": about, "seeds": {}}
    adapted = place / f"{config.text}-{'-'.join(config.adapt)}".replace("=", "_")
    if "adaptation" not in result:
        begin = time.monotonic()
        text = Path(config.data) / config.text
        report = fine_tune(
            raw_text(text, place / "text"), adapted, "task.kind=masked_language_modelling", *config.adapt
        )
        result["adaptation"] = {"seconds": time.monotonic() - begin, **report}
    data = cut(Path(config.data) / config.labels, place / "labels", config.sentences, config.test_sentences)
    for seed in config.seeds:
        row = result["seeds"].setdefault(str(seed), {})
        for who, model in (("minilm", "minilm"), ("adapted", str(adapted))):
            if who not in row:
                row[who] = fine_tune(data, place / f"{who}-{seed}", f"model.name={model}", f"seed={seed}")
                write_file(RESULT, json.dumps(result, indent=1) + "\n")
    for seed, row in result["seeds"].items():
        print(f"seed {seed}: minilm {row['minilm']['f1']:.4f}, adapted {row['adapted']['f1']:.4f}")
    gains = [row["adapted"]["f1"] - row["minilm"]["f1"] for row in result["seeds"].values()]
    print(f"gain: mean {statistics.fmean(gains):+.4f}, lowest {min(gains):+.4f}, highest {max(gains):+.4f}")


def raw_text(source: Path, target: Path) -> Path:
    """Train and dev of a raw text; dev is read as test too, which nothing is chosen by."""
    target.mkdir(parents=True, exist_ok=True)
    for name, file in (("train", "train.txt"), ("dev", "dev.txt"), ("test", "dev.txt")):
        shutil.copyfile(source / file, target / f"{name}.txt")
    return target


if __name__ == "__main__":
    sys.exit(cli.run(AdaptationConfig, main, usage=__doc__ or ""))
