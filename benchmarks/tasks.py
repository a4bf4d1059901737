"""Each kind of task beside Hugging Face: how fast it trains (Trainer) and serves (pipeline), and how well.

    python benchmarks/tasks.py [tasks=[text_classification]] [parts=[train,compress,serve]] [rounds=3]

`train`: both train minilm at the same steps, texts of a step, learning rate, schedule, threads and precision, in turns, with the number of the
round as seed; throughput is that of their steps, and both are scored on the same test texts. `compress` makes an int8 agent of ours of
round 0, `serve` measures it over HTTP beside `transformers.pipeline` on the same agent before. What stands in benchmarks/results/tasks.json is
not measured again, so that tasks, parts and rounds can be run one by one: remove an entry there to measure it anew. Prints a table and the aims.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import tasks  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.errors import ConfigError  # noqa: E402
from benchmarks.common.machine import integer_instructions, machine  # noqa: E402
from benchmarks.task_comparison.kinds import KINDS, Kind  # noqa: E402
from benchmarks.task_comparison.serving_rates import NICENESS, Served, measure_serving  # noqa: E402
from benchmarks.task_comparison.slices import write_slices  # noqa: E402
from benchmarks.task_comparison.task_result import HEAD, Entry, aims, figures, line  # noqa: E402
from benchmarks.trainer_comparison import Ours, Trainer  # noqa: E402
from benchmarks.trainer_comparison.summary import finite  # noqa: E402
from benchmarks.trainer_comparison.workbench import Workbench  # noqa: E402
from benchmarks.training_throughput import LIBRARIES, measure  # noqa: E402

Part = Literal["train", "compress", "serve"]
PARTS: tuple[Part, ...] = ("train", "compress", "serve")
_LEAST_KEPT = 0.9  # a miss of 0.99 is measured and named; the gate would end the run


class TasksConfig(Config):
    """What to compare."""

    data: str = Field(str(ROOT / "../shared/data"), description="directory of the data sets")
    tasks: tuple[str, ...] = Field(tuple(KINDS), description="kinds of task")
    parts: tuple[Part, ...] = Field(PARTS, description="what to measure now")
    scale: float = Field(1.0, gt=0, description="multiplies the records of every split, for slow machines")
    rounds: int = Field(3, ge=1, description="turns of train and serve")
    seconds: float = Field(4.0, gt=0, description="length of a measurement of serve")
    threads: int = Field(2, ge=2, description="CPU threads of every contestant")
    tokens: int = Field(1024, description="our batch.tokens; Trainer's batch holds as many texts as ours on average")
    workdir: str = Field("runs/tasks", description="where data, logs and agents go")
    result: str = Field(str(ROOT / "benchmarks/results/tasks.json"), description="JSON file to write")
    measure: str = Field("", description="for the processes it starts: the file that says what to measure")


def main(config: TasksConfig) -> None:
    """Measures what is wanted and missing, then says all that is known."""
    if config.measure:
        return measure(Path(config.measure))
    if unknown := [name for name in config.tasks if name not in KINDS]:
        raise ConfigError(f"tasks holds {unknown[0]!r}", allowed=", ".join(KINDS), remedy="mend the name")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is being measured ends too
    result = ResultFile(Path(config.result), config)
    for number in range(config.rounds):
        for name in config.tasks:
            TaskRun(name, KINDS[name], config, result).measure(number)
    for text in (HEAD, *(line(name, entry["figures"]) for name, entry in result.tasks.items()), "", *result.aims):
        print(text)
    return None


class ResultFile:
    """What is known of all tasks, on disk after every measurement.

    Args:
        file: Read if it is there.
        config: Written down beside what is measured.
    """

    def __init__(self, file: Path, config: TasksConfig) -> None:
        self._file, self._config = file, config
        known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        self.tasks: dict[str, Entry] = known.get("tasks", {})
        self.aims: list[str] = [aim["line"] for aim in known.get("aims", [])]

    def write(self) -> None:
        """With figures and aims made anew."""
        for entry in self.tasks.values():
            entry["figures"] = figures(entry)
        found = aims(self.tasks)
        self.aims = list(map(str, found))
        record = {
            "machine": machine(),
            "integer_instructions": integer_instructions(),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "config": self._config.model_dump(mode="json", include={"tokens", "threads", "seconds"}),
            "aims": [{"name": aim.name, "measured": aim.measured, "bound": aim.bound, "met": aim.met, "line": str(aim)} for aim in found],
            "tasks": self.tasks,
        }  # fmt: skip
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(finite(record), indent=1) + "\n", encoding="utf-8")


class TaskRun:
    """One kind of task.

    Args:
        name: Of the kind.
        kind: What there is to know of it.
        config: What is wanted.
        result: Where measurements go.
    """

    def __init__(self, name: str, kind: Kind, config: TasksConfig, result: ResultFile) -> None:
        self._name, self._kind, self._config, self._result = name, kind, config, result
        self._workdir = Path(config.workdir).absolute() / name
        records = kind.records(Path(config.data) / kind.source)
        sizes = kind.sizes.scaled(config.scale)
        self._data = write_slices(records, sizes, self._workdir / "data")
        self._bench = Workbench(self._workdir / "measured", Path(__file__), accept_doubtful=True)
        self._trained, self._compressed = (self._workdir / place for place in ("agent", "agent-small"))
        self._entry = result.tasks.setdefault(name, {})
        about = {"data": kind.source, "sizes": asdict(sizes), "epochs": kind.epochs}
        about |= {"learning_rate": kind.learning_rate, "batch_texts": kind.batch_texts}
        self._entry |= about

    def measure(self, number: int) -> None:
        """The parts that are wanted, of one round."""
        parts = self._config.parts
        if "train" in parts:
            self._train(number)
        if "compress" in parts and number == 0:
            self._compress()
        if "serve" in parts:
            self._serve(number)
        self._result.write()

    def _train(self, number: int) -> None:
        """Ours and Trainer, every second round the other way round; ours first of all, since it says how many texts a step has."""
        known = self._entry.setdefault("train", {}).setdefault(str(number), {})
        for who in ("ours", "trainer") if number % 2 == 0 else ("trainer", "ours"):
            if who not in known:
                contestant = self._ours(number) if who == "ours" else self._trainer(number)
                found = self._bench.run(contestant, self._data)
                result = found["result"]
                about = {name: found[name] for name in ("others_before", "others_during", "process_seconds")}
                scores = {name: result[name] for name in ("precision", "points", "test_f1", "test_metrics", "steps")}
                known[who] = {"name": contestant.name, **about, **scores}
                self._result.write()

    def _compress(self) -> None:
        if "compressed" in self._entry and (self._compressed / "bundle.json").is_file():
            return
        if not (self._compressed / "bundle.json").is_file():
            command = ["compression/run.py", f"bundle={self._trained}", f"output={self._compressed}"]
            subprocess.run([sys.executable, *command, f"gate.min_score_kept={_LEAST_KEPT}"], cwd=ROOT, check=True)
        rows = json.loads((self._compressed / "report.json").read_text())["model_rows"]
        scores = [row["quality"]["metrics"][row["quality"]["primary"]] for row in (rows[0], rows[-1])]
        self._entry["compressed"] = {
            "primary": rows[0]["quality"]["primary"], "trained": scores[0], "compressed": scores[1],
            "model": rows[-1]["name"], "precision": rows[-1]["precision"],
        }  # fmt: skip
        self._result.write()

    def _serve(self, number: int) -> None:
        rounds = self._entry.setdefault("serve", {})
        if str(number) not in rounds:
            kind, config = self._kind, self._config
            served = Served(self._name, kind.pipeline, self._trained, self._compressed, kind.batch_texts)
            rounds[str(number)] = measure_serving(served, self._data, seconds=config.seconds, threads=config.threads)
            self._result.write()

    def _ours(self, seed: int) -> Ours:
        return Ours(
            **self._alike(seed), tokens=self._config.tokens, niceness=NICENESS,
            output=str(self._trained) if seed == 0 else "",
        )  # fmt: skip

    def _trainer(self, seed: int) -> Trainer:
        steps = self._entry["train"]["0"]["ours"]["steps"]
        batch = max(1, round(sum(step[1] for step in steps) / len(steps)))
        return Trainer(**self._alike(seed), batch=batch, waiting="briefly", looks_per_epoch=1)

    def _alike(self, seed: int) -> dict[str, Any]:
        kind = self._kind
        return {
            "threads": self._config.threads, "learning_rate": kind.learning_rate, "epochs": kind.epochs, "seed": seed,
            "task": tasks.KINDS[self._name](),
        }  # fmt: skip


if __name__ == "__main__":
    sys.exit(cli.run(TasksConfig, main, usage=__doc__ or ""))
