"""Throughput and F1 of training, compared with the loop of tutorials and with Hugging Face's Trainer.

    python benchmarks/training_throughput.py [stages=[ceiling,article,trainer,ours,workers,scaling,quality]] [repeats=3]

All use the same model, data and precision. Every measurement is a process of its own; contestants take turns. What is in
`workdir` is not measured again, so that a run can be interrupted, and its stages run one by one. Writes benchmarks/results/training_throughput.json from all
that `workdir` holds, with what that file already holds of other stages, and prints a table and the aims. Needs `pip install .[bench]`
and a quiet machine. Stage quality alone, at learning rates and settings of Trainer that an earlier run chose, in half an hour:

    python benchmarks/training_throughput.py stages=[quality] 'settings=[{waiting: briefly}]' trainer_rates=[2e-4] our_rates=[2e-4] \
        looks_per_epoch=2 seeds=[0,1]
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.trainer_comparison import AnyContestant, Article, Ceiling, Contestant, Ours, Trainer, Twins  # noqa: E402
from benchmarks.trainer_comparison.base import write_samples  # noqa: E402
from benchmarks.trainer_comparison.comparison_aims import find_aims  # noqa: E402
from benchmarks.trainer_comparison.f1_over_time import Ask, race, together  # noqa: E402
from benchmarks.trainer_comparison.summary import (  # noqa: E402
    HEAD,
    ceilings,
    curve_lines,
    finite,
    line,
    rates,
    row,
    scaling,
    scaling_lines,
)
from benchmarks.trainer_comparison.workbench import Workbench, doubt  # noqa: E402

CONLL = ROOT / "../shared/data/ner_conll2003"
Stage = Literal["ceiling", "article", "trainer", "ours", "workers", "scaling", "quality"]
ALL: tuple[Stage, ...] = ("ceiling", "article", "trainer", "ours", "workers", "scaling", "quality")
# Ways to run Trainer that are tried for every batch size; the fastest one competes.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"waiting": "briefly"},
    {"waiting": "briefly", "attention": "eager"},
    {"waiting": "briefly", "loaders": 1},
)


class ThroughputConfig(Config):
    """What is measured."""

    data: DataConfig = DataConfig(path=str(CONLL))
    workdir: str = Field("runs/training_throughput", description="where results are kept; remove it to measure anew")
    result: str = Field(str(ROOT / "benchmarks/results/training_throughput.json"), description="JSON file to write")
    stages: tuple[Stage, ...] = Field(ALL, description="what to measure now; quality takes as long as all others")
    accept_doubtful: bool = Field(
        True, description="false: what was measured beside busy neighbours does not count and is measured again"
    )
    repeats: int = Field(3, ge=1, description="measurements of each contestant's speed")
    threads: int = Field(2, ge=2, description="CPU threads of every contestant")
    article_steps: int = Field(23, ge=4, description="steps of the article's loop; the first 3 do not count")
    trial_sentences: int = Field(
        3200, ge=256, description="sentences of a trial of Trainer's settings, and of stage workers"
    )
    batches: tuple[int, ...] = Field((16, 32, 64), description="Trainer's batch sizes, sentences")
    tokens: tuple[int, ...] = Field((512, 1024, 2048), description="our batch.tokens")
    workers_tokens: tuple[int, ...] = Field((1024, 2048), description="batch.tokens of stage workers")
    quality_batch: int = Field(32, description="Trainer's batch size of stage quality")
    quality_tokens: int = Field(512, description="our batch.tokens of stage quality")
    rate_tokens: int = Field(1024, description="our batch.tokens in the aims of speed")
    trainer_rates: tuple[float, ...] = Field((5e-5, 1e-4, 2e-4), description="Trainer's learning rates to choose from")
    our_rates: tuple[float, ...] = Field(
        (1e-4, 2e-4, 4e-4), description="our learning rates to choose from; one alone is taken untried"
    )
    settings: tuple[dict[str, Any], ...] = Field(
        SETTINGS,
        min_length=1,
        description="ways to run Trainer that are tried for every batch size; one alone is taken untried",
    )
    scaling_seconds: float = Field(25.0, gt=0, description="of training in stage scaling")
    trainer_epochs: int = Field(4, ge=1, description="of Trainer's runs to the end in stage quality")
    our_epochs: int = Field(3, ge=1, description="of our runs to the end in stage quality")
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="of the runs to the end in stage quality, one race for each"
    )
    looks_per_epoch: int = Field(4, ge=1, description="Trainer's evaluations on dev in an epoch of stage quality")
    measure: str = Field("", description="for the processes it starts: the file that says what to measure")


class Order(Config):
    """What one process measures."""

    contestant: AnyContestant
    data: DataConfig


class Entry(NamedTuple):
    """A contestant of a stage, and on what it runs."""

    stage: Stage
    contestant: Contestant
    data: DataConfig


def main(config: ThroughputConfig) -> None:
    """Measures what is wanted, then says all that is known."""
    if config.measure:
        return measure(Path(config.measure))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is being measured ends too
    fallen_back = config.data.path == str(CONLL) and not CONLL.is_dir()
    if fallen_back:
        print(f"note: {CONLL} does not exist; this runs on the embedded demo corpus, and the aims are for CoNLL-2003")
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": "demo"})})
    run = Run(config)
    run.measure()
    result = run.result(aims_hold=not fallen_back)
    Path(config.result).parent.mkdir(parents=True, exist_ok=True)
    Path(config.result).write_text(json.dumps(finite(result.record), indent=1) + "\n")
    print("", *result.lines, sep="\n")
    return None


def measure(asked: Path) -> None:
    """In a process of its own: does what the file says and writes the result."""
    order = json.loads(asked.read_text())
    wanted = Order.model_validate(order["order"])
    Path(order["answer"]).write_text(json.dumps(wanted.contestant.measure(wanted.data)))


class Result(NamedTuple):
    """For the file, and for people."""

    record: dict[str, Any]
    lines: list[str]


class Run:
    """The benchmark as a whole.

    Args:
        config: What is wanted.
    """

    def __init__(self, config: ThroughputConfig) -> None:
        workdir = Path(config.workdir).absolute()
        self.config = config
        self.bench = Workbench(workdir / "measured", Path(__file__), accept_doubtful=config.accept_doubtful)
        self.earlier = read_earlier(Path(config.result), config.data)
        self.whole, self.part = write_samples(config.data, workdir, size=config.trial_sentences)

    def measure(self) -> None:
        """All stages that are wanted, contestants in turn; quality at the end."""
        if {"trainer", "quality"} & set(self.config.stages) and len(self.config.settings) > 1:
            for trial in self.trials():
                if "trainer" in self.config.stages or trial.batch == self.config.quality_batch:
                    self.bench.run(trial, self.whole)
        for repeat in range(self.config.repeats):
            for stage, contestant, data in self.entries():
                if stage in self.config.stages:
                    self.bench.run(contestant, data, repeat)
        if "quality" in self.config.stages:
            self.race(lambda contestant: self.bench.run(contestant, self.config.data))

    def trials(self) -> list[Trainer]:
        """Trainer in every way, for a part of an epoch."""
        config = self.config
        sizes = dict.fromkeys([*config.batches, config.quality_batch])
        return [
            Trainer(threads=config.threads, batch=batch, sentences=config.trial_sentences, **settings)
            for batch in sizes
            for settings in config.settings
        ]

    def trainer(self, batch: int) -> Trainer | None:
        """Trainer in the way that was fastest; None before it was tried. One way alone needs no trial."""
        if len(self.config.settings) == 1:
            return Trainer(threads=self.config.threads, batch=batch, **self.config.settings[0])
        tried = [(trial, self.bench.found(trial, self.whole)) for trial in self.trials() if trial.batch == batch]
        speeds = [(rates(found["result"]["steps"])["sentences_per_s"], trial) for trial, found in tried if found]
        if len(speeds) < len(self.config.settings):
            return None
        best = max(speeds, key=lambda speed: speed[0])[1]
        return Trainer(threads=self.config.threads, batch=batch, **best.settings)

    def entries(self) -> Iterator[Entry]:
        """Who competes for speed, as far as it is known."""
        config, threads = self.config, self.config.threads
        for number in (1, threads):
            yield Entry("ceiling", Ceiling(threads=number), self.whole)
        for waiting in ("as installed", "briefly"):
            yield Entry("article", Article(threads=threads, waiting=waiting, steps=config.article_steps), self.whole)
        yield from (Entry("trainer", found, self.whole) for batch in config.batches if (found := self.trainer(batch)))
        yield from (Entry("ours", Ours(threads=threads, tokens=tokens), self.whole) for tokens in config.tokens)
        for tokens in config.workers_tokens:
            for workers in (1, 2):
                yield Entry("workers", Ours(threads=workers, workers=workers, tokens=tokens), self.part)
        yield from (
            Entry("scaling", twins, self.part) for tokens in config.workers_tokens for twins in self.twins(tokens)
        )

    def twins(self, tokens: int) -> list[Twins]:
        """One process, and two that know nothing of each other, each with its part of the tokens of a step."""
        return [Twins(processes=count, tokens=tokens // count, seconds=self.config.scaling_seconds) for count in (1, 2)]

    def race(self, ask: Ask) -> dict[str, Any] | None:
        """F1 over time of Trainer and of ours, for every seed; None before all were run."""
        config = self.config
        rival = self.trainer(config.quality_batch)
        if not rival:
            return None
        rival = rival.model_copy(update={"looks_per_epoch": config.looks_per_epoch, "epochs": config.trainer_epochs})
        ours = Ours(threads=config.threads, tokens=config.quality_tokens, epochs=config.our_epochs)
        races = []
        for seed in config.seeds:
            entrants = [
                (entrant.model_copy(update={"seed": seed}), chosen)
                for entrant, chosen in ((rival, config.trainer_rates), (ours, config.our_rates))
            ]
            races.append(race(ask, entrants))
        return together([found for found in races if found]) if all(races) else None

    def result(self, *, aims_hold: bool) -> Result:
        """All that is known so far."""
        tops, doubtful = self.ceilings(), self.doubtful()
        tops = tops or {int(threads): top for threads, top in self.earlier.get("ceilings", {}).items()}
        new_rows = [one for entry in self.entries() if (one := self.row(entry, tops))]
        rows = new_rows + self.kept_rows({row["stage"] for row in new_rows})
        new_quality = self.race(lambda contestant: self.bench.found(contestant, self.config.data))
        quality = new_quality or self.earlier.get("quality")
        scales = self.scales() or self.earlier.get("scaling", {})
        measured = find_aims(rows, quality, tokens=self.config.rate_tokens, workers_tokens=self.config.workers_tokens)
        if not aims_hold:
            measured = [Aim(aim.name, None, aim.bound, aim.at_least) for aim in measured]
        record = {
            "machine": machine(),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "data": Path(self.config.data.path).name,
            "config": self.config.model_dump(mode="json", exclude={"data", "workdir", "result", "measure"}),
            "ceilings": tops,
            "trials": [one for trial in self.trials() if (one := self.trial_row(trial))]
            or self.earlier.get("trials", []),
            "rows": rows,
            "scaling": scales,
            "quality": quality,
            "doubtful": doubtful,
            "aims": [
                {"name": aim.name, "measured": aim.measured, "bound": aim.bound, "met": aim.met, "line": str(aim)}
                for aim in measured
            ],
        }
        notes = [f"note: {name}; accept_doubtful=false measures it again" for name in doubtful]
        curves = curve_lines(quality) if quality else []
        kept = sorted({row["stage"] for row in rows} - {row["stage"] for row in new_rows})
        notes += [f"note: {stage} is of an earlier run, kept from {self.config.result}" for stage in kept]
        if quality and not new_quality:
            notes.append(f"note: quality is of an earlier run, kept from {self.config.result}")
        lines = [*curves, *scaling_lines(scales, measured), *notes, *map(str, measured)]
        return Result(record, [HEAD, *map(line, rows), *lines])

    def kept_rows(self, known: set[str]) -> list[dict[str, Any]]:
        """Rows of an earlier run, of stages of which nothing is known now."""
        return [row for row in self.earlier.get("rows", []) if row["stage"] not in known]

    def scales(self) -> dict[str, dict[str, float]]:
        """What independent processes gain, by the tokens of a step, as far as it is known."""
        pairs = {
            str(tokens): [self.repeats(twins, self.part) for twins in self.twins(tokens)]
            for tokens in self.config.workers_tokens
        }
        return {tokens: scaling(*pair) for tokens, pair in pairs.items() if all(pair)}

    def ceilings(self) -> dict[int, dict[str, Any]]:
        """By threads, as far as they are known."""
        runs = {
            contestant.threads: self.repeats(contestant, data)
            for stage, contestant, data in self.entries()
            if stage == "ceiling"
        }
        return ceilings({threads: found for threads, found in runs.items() if found})

    def row(self, entry: Entry, tops: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
        """A contestant's row, with its stage; None before it was measured."""
        found = self.repeats(entry.contestant, entry.data)
        if not found or entry.stage in ("ceiling", "scaling"):
            return None
        top = tops.get(entry.contestant.threads, {})
        gflops = top["gflops"][found[0]["result"]["precision"]]["square"] if top else None
        figures = row(entry.contestant.name, found, gflops=gflops, parameters=top.get("parameters"))
        return {"stage": entry.stage, "contestant": entry.contestant.model_dump(mode="json"), **figures}

    def doubtful(self) -> list[str]:
        """What was measured beside busy neighbours, of all that counts for speed."""
        trials = ((trial, self.bench.found(trial, self.whole)) for trial in self.trials())
        entries = (
            (contestant, found) for _, contestant, data in self.entries() for found in self.repeats(contestant, data)
        )
        return [f"{who.name}{doubt(found)}" for who, found in (*trials, *entries) if found and doubt(found)]

    def repeats(self, contestant: Contestant, data: DataConfig) -> list[dict[str, Any]]:
        """What is known of a contestant."""
        asked = (self.bench.found(contestant, data, repeat) for repeat in range(self.config.repeats))
        return [found for found in asked if found]

    def trial_row(self, trial: Trainer) -> dict[str, Any] | None:
        """A trial's speed, if it is known."""
        found = self.bench.found(trial, self.whole)
        return {"batch": trial.batch, **trial.settings, **rates(found["result"]["steps"])} if found else None


def read_earlier(result: Path, data: DataConfig) -> dict[str, Any]:
    """What an earlier run on the same data and the same kind of machine has written; nothing otherwise."""
    earlier: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    alike = earlier.get("data") == Path(data.path).name and earlier.get("machine") == machine()
    return earlier if alike else {}


LIBRARIES = ("torch", "transformers", "accelerate", "ray", "deepspeed", "numpy", "tokenizers", "seqeval")


if __name__ == "__main__":
    sys.exit(cli.run(ThroughputConfig, main, usage=__doc__ or ""))
