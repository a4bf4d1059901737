"""What the loop brings where callers only say right or wrong: rounds beside no loop and beside all labels, and what it refuses.

    python benchmarks/feedback_loop/loop_rounds.py data=DIR/cls_banking77 [rounds=6] [decisions=800] [key=value ...]

A classifier that knows a tenth of the labels answers a stream of texts with exploration (`explore.temperature`); half of the intents are asked about only in the
second half of the rounds. Each answer is called right or wrong. After each batch of answers a round of the loop runs with rewards=teach, its stations by their
own commands (training, compression, comparison, judge), callers checked as is the default. Then three rounds that should be refused: a candidate that was hardly trained, one
taught by feedback of which a few callers' is a lie (`check_callers=false`), and one judged on a log that has lost all answers that were wrong; and the lies once more as is the default.

The encoder is small (benchmarks/feedback_loop/word_encoder.py), so that a round takes a minute or two. What is done is kept below `directory`: the same
command goes on there. Writes benchmarks/results/loop.json and docs/loop.svg.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.bundle import installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.decisions.exploration import ExploreConfig  # noqa: E402
from agent.decisions.store import DecisionStore  # noqa: E402
from agent.files import write_file  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.feedback_loop.bandit_stream import AGENT, Callers, Log, Row, Stream, accuracy, cut  # noqa: E402
from benchmarks.feedback_loop.loop_chart import draw  # noqa: E402
from benchmarks.feedback_loop.word_encoder import build_encoder  # noqa: E402
from cluster.loop.loop_config import LoopConfig  # noqa: E402
from cluster.loop.round_ledger import Entry, read_ledger  # noqa: E402
from cluster.loop.rounds import run_round  # noqa: E402
from cluster.progress import Progress  # noqa: E402

RESULT, PICTURE = ROOT / "benchmarks/results/loop.json", ROOT / "docs/loop.svg"
_VERIFY = {"kind": "verify", "rounds": 1, "max_sentences": 16}
_PACKAGES = ("torch", "transformers", "onnxruntime", "ray", "deepspeed", "SQLAlchemy")


class LoopBenchmarkConfig(Config):
    """What is measured."""

    data: str = Field(description="directory with train.jsonl and test.jsonl of {text, label}")
    labelled: float = Field(0.1, gt=0, lt=1, description="part of train whose labels the first agent knows")
    rounds: int = Field(6, ge=2, description="rounds of the loop; the late intents come in the second half")
    decisions: int = Field(800, ge=20, description="texts that are answered before each round")
    temperature: float = Field(1.0, gt=0, description="of exploration")
    callers: int = Field(10, ge=1, description="who ask in turns")
    liars: int = Field(3, ge=1, description="callers who say the opposite, in the round with spoiled feedback")
    epochs: dict[str, int] = Field(
        {"first": 20, "round": 5, "supervised": 10}, description="of each kind of training; its batches are the same"
    )
    learning_rate: float = Field(
        0.002, gt=0, description="of the first agent and of all labels; rounds take half of it"
    )
    max_log_loss: float = Field(
        0.25, ge=0, le=1, description="gates.max_log_loss: half of an interval on so few rewards"
    )
    seed: int = Field(0, ge=0, description="of the cut, the answers and the trainings")
    directory: str = Field("runs/loop_benchmark", description="where agents, store and rounds go, and what is done")
    output: str = Field(str(RESULT), description="file for the result")
    picture: str = Field(str(PICTURE), description="file for the chart; empty draws none")


class Bench:
    """The stream, the first agent, and what was measured so far.

    Args:
        config: What is measured.
    """

    def __init__(self, config: LoopBenchmarkConfig) -> None:
        self.config, self.work = config, Path(config.directory).absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self.stream: Stream = cut(
            Path(config.data), share=config.labelled, rounds=config.rounds, size=config.decisions, seed=config.seed
        )
        self.first, self.live = self.work / "first-small", self.work / "served" / "live"
        self._file = self.work / "done.json"
        self.done: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def keep(self, name: str, find: Callable[[], Any]) -> Any:
        """Measures something once, and keeps it."""
        if name not in self.done:
            started = time.monotonic()
            found = find()
            self.done[name] = {"found": found, "seconds": round(time.monotonic() - started, 1)}
            write_file(self._file, json.dumps(self.done, indent=1) + "\n")
        return self.done[name]["found"]

    def prepare(self) -> None:
        """The encoder, the labelled data, the first agent, and a copy of it that is served."""
        encoder = self.work / "encoder"
        build_encoder(encoder, [row["text"] for row in [*self.stream.labelled, *self.stream.early, *self.stream.late]])
        self.keep("first", lambda: self.train("first", self.stream.labelled, self.config.epochs["first"]))
        if not self.live.exists():
            shutil.copytree(self.first, self.live)

    def train(self, name: str, rows: list[Row], epochs: int) -> float:
        """Trains an agent on labels and compresses it; its accuracy on the test split."""
        data, agent, small = self.work / f"{name}-data", self.work / f"{name}-agent", self.work / f"{name}-small"
        data.mkdir(exist_ok=True)
        for split, found in (("train", rows), ("test", self.stream.test)):
            write_file(data / f"{split}.jsonl", "".join(json.dumps(dict(row)) + "\n" for row in found))
        keys = [
            f"data.path={data}", "task.kind=text_classification", f"model.name={self.work / 'encoder'}", "model.trainable=1",
            f"epochs={epochs}", f"optimizer.learning_rate={self.config.learning_rate}", "batch.tokens=512", f"seed={self.config.seed}",
            "early_stopping.patience=null", "cluster.dashboard=false", "num_workers=1", f"output={agent}",
        ]  # fmt: skip
        _command("training/run.py", *keys)
        steps = json.dumps(["export", _VERIFY])
        _command(
            "compression/run.py", f"bundle={agent}", f"output={small}", "overwrite=true", f"steps={steps}", "threads=1"
        )
        return accuracy(small, self.stream.test)

    def settings(self, place: Path, **changes: Any) -> LoopConfig:
        """Of a loop below a directory."""
        gates = {
            "max_log_loss": self.config.max_log_loss, "log_required": True,
            "evidence": {"min_decisions": self.config.decisions // 10, "min_effective": self.config.decisions / 20},
        }  # fmt: skip
        training = {
            "epochs": self.config.epochs["round"], "optimizer": {"learning_rate": self.config.learning_rate / 2},
        }  # fmt: skip
        found: dict[str, Any] = {
            "directory": str(place / "loop"), "store": url(place), "live": str(place / "served" / "live"), "agent": AGENT,
            "rewards": "teach", "min_feedback": self.config.decisions // 4, "training": training, "gates": gates,
        }  # fmt: skip
        return LoopConfig.model_validate(found | changes)

    def answers(self, place: Path, number: int, *, lying: int = 0) -> dict[str, float]:
        """Answers a batch: the part of right answers as they were drawn, of the best ones, and of the first agent's best ones."""
        rows = self.stream.batch(number, self.config.rounds, self.config.decisions)
        explore = ExploreConfig(temperature=self.config.temperature)
        log = Log(url(place), explore, Callers(self.config.callers, lying), self.config.seed)
        live = place / "served" / "live"
        return {
            "asked": len(rows), "loop": log.answer(live, rows, number), "loop, best answers": accuracy(live, rows),
            "no loop": accuracy(self.first, rows),
        }  # fmt: skip


def measure(config: LoopBenchmarkConfig) -> None:
    """Measures what is missing, prints and writes."""
    bench = Bench(config)
    total = config.rounds + len(FAULTS) + 2
    with Progress("loop", total, unit="part", rate=lambda rate: f"{1 / rate:.0f} s a part") as progress:
        bench.prepare()
        progress.advance(1)
        for number in range(1, config.rounds + 1):
            bench.keep(f"answers {number}", lambda number=number: bench.answers(bench.work, number))
            bench.keep(f"round {number}", lambda number=number: _round(bench, number))
            progress.advance(1)
            _write(bench)
        for name, fault in FAULTS.items():
            bench.keep(name, lambda name=name, fault=fault: _told(fault(bench, _copy(bench, name)), bench))
            progress.advance(1)
            _write(bench)
        bench.keep("supervised", lambda: _supervised(bench))
        progress.advance(1)
    _write(bench)


def _round(bench: Bench, number: int) -> dict[str, Any]:
    """A round, or what became of one that a killed benchmark could not write down."""
    config = bench.settings(bench.work)
    entries = read_ledger(Path(config.directory) / "ledger.jsonl")
    entry = entries[number - 1] if len(entries) >= number else run_round(config)
    return _told(entry, bench) | {"test accuracy": accuracy(bench.live, bench.stream.test)}


def _told(entry: Entry, bench: Bench) -> dict[str, Any]:
    """What the result keeps of a ledger entry: nothing that names a place on this machine."""
    gates = [{key: gate[key] for key in ("gate", "passed", "why", "numbers")} for gate in entry["gates"]]
    found = {
        "decision": entry["decision"], "why": entry["why"], "feedback": entry["feedback"], "gates": gates,
        "seconds": sum(entry["seconds"].values()),
    }  # fmt: skip
    kept: dict[str, Any] = json.loads(json.dumps(found).replace(f"{bench.work}/", ""))
    return kept


def _copy(bench: Bench, name: str) -> Path:
    """The loop as it stands at the end of the rounds, in a directory of its own."""
    place = bench.work / name.replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    for part in ("loop", "served"):
        shutil.copytree(bench.work / part, place / part)
    for file in bench.work.glob("decisions.db*"):
        shutil.copy2(file, place / file.name)
    return place


def _hardly_trained(bench: Bench, place: Path) -> Entry:
    bench.answers(place, bench.config.rounds + 1)
    training = {"epochs": 1, "optimizer": {"learning_rate": bench.config.learning_rate / 100}}
    return run_round(bench.settings(place, start="base", training=training))


def _lies(bench: Bench, place: Path) -> Entry:
    bench.answers(place, bench.config.rounds + 1, lying=bench.config.liars)
    return run_round(bench.settings(place, check_callers=False))


def _lies_checked(bench: Bench, place: Path) -> Entry:
    bench.answers(place, bench.config.rounds + 1, lying=bench.config.liars)
    return run_round(bench.settings(place))


def _gaps(bench: Bench, place: Path) -> Entry:
    bench.answers(place, bench.config.rounds + 1)
    store = DecisionStore(url(place))
    try:
        lost = [one.decision.id for one in store.read(AGENT) if one.feedback and one.feedback.reward == 0]
        for request_id in lost:
            store.delete(request_id)
    finally:
        store.close()
    return run_round(bench.settings(place))


CHECKED = "lies of a few callers, callers checked"
FAULTS: Mapping[str, Callable[[Bench, Path], Entry]] = {
    "hardly trained": _hardly_trained, "lies of a few callers": _lies, "wrong answers are lost": _gaps,
    CHECKED: _lies_checked,
}  # fmt: skip


def _supervised(bench: Bench) -> float:
    """The accuracy of an agent that is told the label of every text that was asked about."""
    config = bench.config
    asked = [
        row for number in range(1, config.rounds + 1) for row in bench.stream.batch(number, config.rounds, config.decisions)
    ]  # fmt: skip
    return bench.train("supervised", [*bench.stream.labelled, *asked], config.epochs["supervised"])


def url(place: Path) -> str:
    """The store of a loop."""
    return f"sqlite:///{place / 'decisions.db'}"


def _command(program: str, *keys: str) -> None:
    subprocess.run([sys.executable, program, *keys], cwd=ROOT, check=True)


def _write(bench: Bench) -> None:
    """The result so far, as a file, a table and a chart."""
    config, found = bench.config, {name: kept["found"] for name, kept in bench.done.items()}
    rounds = [
        {"round": number, **found[f"answers {number}"], **found[f"round {number}"]}
        for number in range(1, config.rounds + 1)
        if f"round {number}" in found
    ]
    content: dict[str, Any] = {
        "config": config.model_dump(mode="json", exclude={"directory", "output", "picture"}) | {"data": Path(config.data).name},
        "labelled": len(bench.stream.labelled), "first agent": found["first"], "rounds": rounds,
        "faults": {name: found[name] for name in FAULTS if name in found}, "supervised": found.get("supervised"),
        "seconds": {name: kept["seconds"] for name, kept in bench.done.items()},
        "machine": machine(), "versions": installed_versions(_PACKAGES),
    }  # fmt: skip
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")
    print("\n".join(_tables(content)), flush=True)
    if config.picture:
        draw(content, Path(config.picture))


def _tables(content: Mapping[str, Any]) -> list[str]:
    head = ["round", "decision", "right", "right, best answers", "right, no loop", "test accuracy"]
    rows = [
        [
            str(row["round"]), row["decision"], *(f"{row[key]:.3f}" for key in ("loop", "loop, best answers", "no loop", "test accuracy")),
        ]
        for row in content["rounds"]
    ]  # fmt: skip
    lines = markdown.table([head, *rows], num_text_columns=2)
    lines += [f"{name}: {found['decision']}: {found['why']}" for name, found in content["faults"].items()]
    if content["supervised"] is not None:
        lines += [str(aim) for aim in find_aims(content)]
    return lines


def find_aims(content: Mapping[str, Any]) -> list[Aim]:
    """What the rounds should come to."""
    scores = [content["first agent"], *(row["test accuracy"] for row in content["rounds"])]
    promoted = [
        after - before
        for before, after, row in zip(scores[:-1], scores[1:], content["rounds"], strict=True)
        if row["decision"] == "published"
    ]
    refused = [found["decision"] == "refused" for name, found in content["faults"].items() if name != CHECKED]
    named = [
        name for name in content["faults"].get(CHECKED, {}).get("feedback", {}).get("left_out", {}) if "caller-" in name
    ]
    return [
        Aim("accuracy at the end, of that with all labels", scores[-1] / content["supervised"], 0.9),
        Aim("smallest gain of a promotion", min(promoted, default=None), -0.01),
        Aim("refused of the three that should be", sum(refused) / len(refused) if refused else None, 1),
        Aim("lying callers named", len(named) / content["config"]["liars"], 1),
    ]


if __name__ == "__main__":
    sys.exit(cli.run(LoopBenchmarkConfig, measure, usage=__doc__ or ""))
