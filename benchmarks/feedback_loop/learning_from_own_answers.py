"""What self-training adds to few labels: an agent that is also taught its own sure answers, on real data.

    python benchmarks/feedback_loop/learning_from_own_answers.py data=DIR/cls_banking77 kind=text_classification labelled=500 unlabelled=3000
    python benchmarks/feedback_loop/learning_from_own_answers.py data=DIR/ner_conll2003 kind=token_classification labelled=300 unlabelled=2000

An agent learns the labels by training/run.py as it stands, answers the other texts by serving/active_learning/self_labels.py as a round of the loop does (docs/loop.md), and
another one learns the labels and the answers that reach a threshold, from the same base model; a third one learns all labels. Adds a row to benchmarks/results/learning_from_own_answers.json.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from pydantic import Field  # noqa: E402

from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig  # noqa: E402
from agent.data.exports import write_split  # noqa: E402
from agent.data.formats.base import Record  # noqa: E402
from agent.data.splits import open_sources  # noqa: E402
from agent.files import write_file  # noqa: E402
from agent.tasks import KINDS, BaseTask  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.feedback_loop.word_encoder import build_encoder  # noqa: E402

RESULT = ROOT / "benchmarks/results/learning_from_own_answers.json"
_VERIFY = {"kind": "verify", "rounds": 1, "max_sentences": 16}


class OwnAnswersConfig(Config):
    """What is measured."""

    data: str = Field(description="labelled data with train and test splits, as data.path")
    kind: Literal["text_classification", "token_classification"] = Field(description="the task")
    labelled: int = Field(500, ge=50, description="training examples with labels; of classes at least five each")
    unlabelled: int = Field(3_000, ge=50, description="other training texts")
    dev: int = Field(
        300,
        ge=50,
        description="examples of dev, the same for all agents: of the data's own, or where it has none of train",
    )
    thresholds: tuple[float, ...] = Field((0.9,), description="of confidence, from which on an answer is taught")
    all_labels: bool = Field(True, description="whether an agent is also told the labels of the other texts")
    encoder: Literal["small", "minilm"] = Field(
        "small",
        description="what is fine-tuned: benchmarks/feedback_loop/word_encoder.py's, with one layer trained, or minilm",
    )
    epochs: int | Literal["auto"] = Field("auto", description="of every training, as epochs of training/run.py")
    seed: int = Field(0, ge=0, description="of what is drawn and of the trainings")
    directory: str = Field(
        "runs/own_answers", description="where agents and data go; a finished agent is not trained again"
    )
    output: str = Field(str(RESULT), description="file for the result, to which a row is added")


class Bench:
    """Data and agents of one measurement, in a directory of their own.

    Args:
        config: What is measured.
    """

    def __init__(self, config: OwnAnswersConfig) -> None:
        self.config, name = config, Path(config.data).name
        self.place = (
            Path(config.directory).absolute()
            / f"{name}-{config.encoder}-{config.labelled}-{config.unlabelled}-{config.epochs}-{config.seed}"
        )
        data = DataConfig(path=config.data)
        self.task: BaseTask[Any] = KINDS[config.kind].model_validate({"kind": config.kind})
        self.splits: dict[str, list[Record]] = {
            split: source.read_all()[0] for split, source in open_sources(data, config.kind).items()
        }
        drawn = np.random.default_rng(config.seed).permutation(len(self.splits["train"])).tolist()
        train = [self.splits["train"][place] for place in drawn]
        if "dev" not in self.splits:
            self.splits["dev"], train = train[: config.dev], train[config.dev :]
        self.known, self.others = _cut(train, config)

    def score(self, name: str, train: Sequence[Record]) -> float:
        """Trains an agent on labels, from the base model; its score on the test split."""
        agent = self.place / f"{name}-agent"
        if not agent.exists():
            data = self.place / f"{name}-data"
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(parents=True)
            dev = self.splits["dev"][: self.config.dev]
            splits = {"train": train, "dev": dev, "test": self.splits["test"]}
            for split, records in splits.items():
                write_split(data, split, records, "jsonl", " ".join)
            keys = [
                f"data.path={data}",
                f"task.kind={self.config.kind}",
                *self._model(),
                f"epochs={self.config.epochs}",
                f"seed={self.config.seed}",
                "early_stopping.patience=null",
            ]
            _command("training/run.py", *keys, "num_workers=1", "cluster.dashboard=false", f"output={agent}")
        (found,) = (one for one in Bundle.load(agent).manifest.evaluations if one.split == "test")
        return found.report.value

    def _model(self) -> list[str]:
        """Keys of the model that is fine-tuned."""
        if self.config.encoder == "minilm":
            return ["model.name=minilm"]
        encoder = self.place / "encoder"
        examples = [self.task.read_record(*record) for record in [*self.known, *self.others]]
        build_encoder(encoder, [self.task.text_of(example) for example in examples])
        return [f"model.name={encoder}", "model.trainable=1", "optimizer.learning_rate=0.002"]

    def own_answers(self, name: str, threshold: float) -> list[Record]:
        """The texts without labels whose answers an agent is sure of, as it labels them."""
        small, given, output = (
            self.place / part for part in (f"{name}-small", "unlabelled.jsonl", f"own-{threshold:g}.jsonl")
        )
        if not small.exists():
            steps = json.dumps(["export", _VERIFY])
            _command(
                "compression/run.py",
                f"bundle={self.place / f'{name}-agent'}",
                f"output={small}",
                f"steps={steps}",
                "threads=1",
            )
        texts = [{"text": self.task.text_of(self.task.read_record(*record))} for record in self.others]
        write_file(given, "".join(json.dumps(text) + "\n" for text in texts))
        program = "serving/active_learning/self_labels.py"
        _command(
            program, f"bundle={small}", f"input={given}", f"output={output}", f"threshold={threshold}", "overwrite=true"
        )
        lines = output.read_text(encoding="utf-8").splitlines()
        return [(json.loads(line), f"{output.name}:{number}") for number, line in enumerate(lines, start=1)]

    def right(self, answers: Sequence[Record]) -> float:
        """Part of the answers that say of their text what people said."""
        known = {}
        for record in self.others:
            example = self.task.read_record(*record)
            known[self.task.text_of(example)] = _said(example)
        examples = [self.task.read_record(*record) for record in answers]
        return (
            float(np.mean([known[self.task.text_of(one)] == _said(one) for one in examples]))
            if examples
            else float("nan")
        )


def measure(config: OwnAnswersConfig) -> None:
    """Measures, prints and writes."""
    bench = Bench(config)
    row: dict[str, Any] = config.model_dump(mode="json", exclude={"directory", "output", "all_labels"}) | {
        "data": Path(config.data).name
    }
    row |= {"labelled": len(bench.known), "unlabelled": len(bench.others), "labels": bench.score("labels", bench.known)}
    row["own answers"] = {}
    for threshold in config.thresholds:
        answers = bench.own_answers("labels", threshold)
        score = bench.score(f"own-{threshold:g}", [*bench.known, *answers])
        row["own answers"][f"{threshold:g}"] = {"taught": len(answers), "right": bench.right(answers), "score": score}
    row["all labels"] = bench.score("all", [*bench.known, *bench.others]) if config.all_labels else None
    row |= {"machine": machine(), "versions": installed_versions(("torch", "transformers", "onnxruntime", "deepspeed"))}
    file = Path(config.output)
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    write_file(file, json.dumps({"rows": [*rows, row]}, indent=1) + "\n")
    print(json.dumps({key: row[key] for key in ("data", "labels", "own answers", "all labels")}, indent=1))


def _cut(records: Sequence[Record], config: OwnAnswersConfig) -> tuple[list[Record], list[Record]]:
    """Examples with labels, and others."""
    seen: dict[Any, int] = {}
    first, rest = list[Record](), list[Record]()
    for record, where in records:
        label = record.get("label")
        seen[label] = seen.get(label, 0) + 1
        (first if label is not None and seen[label] <= _LEAST else rest).append((record, where))
    more = max(0, config.labelled - len(first))
    return first + rest[:more], rest[more:][: config.unlabelled]


_LEAST = 5  # labelled texts of a class, so that none of them all is held out for dev


def _said(example: Any) -> Any:
    """What an example says of its text."""
    return getattr(example, "label", None) or sorted(tuple(span) for span in example.spans)


def _command(program: str, *keys: str) -> None:
    subprocess.run([sys.executable, program, *keys], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(cli.run(OwnAnswersConfig, measure, usage=__doc__ or ""))
