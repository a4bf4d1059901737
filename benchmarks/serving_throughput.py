"""How fast is our server beside those that other libraries make? One agent, the same texts, the same callers, two cores.

    python benchmarks/serving_throughput.py [bundle=DIR] [data.path=DIR] [rivals=[mosec,litserve]] [rounds=3] [seconds=5]

Servers run one at a time, in turns, for `rounds` rounds; each is checked against the engine in process, warmed up and
measured. In between the same sessions are measured in process: the ceilings. What stands in `workdir` is not measured
again, so a run can be interrupted and goes on where it was. Writes benchmarks/results/serving.json after every server,
then a picture, a table and the aims. Rivals live in environments of their own below `environments`, made on demand.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
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
from agent.errors import ConfigError  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.common.server_process import ServerError, running  # noqa: E402
from benchmarks.load.figures import aims, medians  # noqa: E402
from benchmarks.load.show import draw, table  # noqa: E402
from benchmarks.load.visit import Plan, Visit, entities  # noqa: E402
from benchmarks.rivals.installation import NotInstalledError, python_of  # noqa: E402
from benchmarks.rivals.roster import Entrant, roster  # noqa: E402

Figures = dict[str, Any]
LIBRARIES = (
    "ray",
    "fastapi",
    "uvicorn",
    "uvloop",
    "onnxruntime-gpu",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
)
CEILING = "ceiling"


class ServingBenchmark(Config):
    """What is measured."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent to serve; `make demo` makes this one")
    data: DataConfig = Field(DataConfig(), description="whose test split is sent as raw text")
    rivals: tuple[str, ...] = Field((), description="servers to measure, by name; default: all, ours among them")
    rounds: int = Field(3, ge=1, description="turns that every server takes")
    seconds: float = Field(5, gt=0, description="length of a measurement")
    checked_texts: int = Field(64, ge=1, description="texts whose entities have to be those of the engine in process")
    workdir: str = Field("runs/serving_benchmark", description="where measurements are kept; remove it to measure anew")
    environments: str = Field(".venv-rivals", description="where the environments of rivals lie")
    install_s: float = Field(900, gt=0, description="seconds that the installation of a rival may take")
    result: str = Field(str(ROOT / "benchmarks/results/serving.json"), description="JSON file to write")
    picture: str = Field(str(ROOT / "docs/serving_benchmark.svg"), description="picture to draw")


def main(config: ServingBenchmark) -> None:
    """Measures what is wanted and not known, then says all that is known."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server under measurement ends too
    contest = Contest(config)
    contest.measure()
    result = contest.result()
    draw(result, Path(config.picture))
    print("", *table(result), "", *(aim["line"] for aim in result["aims"]), sep="\n")


class Contest:
    """The benchmark as a whole.

    Args:
        config: What is wanted.
    """

    def __init__(self, config: ServingBenchmark) -> None:
        self.config, self.bundle = config, Bundle.load(Path(config.bundle).absolute())
        self.entrants = chosen(config.rivals)
        self.texts = [self.bundle.task.text_of(example) for example in load_splits(config.data, self.bundle.task).test]
        self.plan = Plan(self.texts, self._expected(), config.seconds)
        self.status: dict[str, str] = {}
        self._kept = Path(config.workdir).absolute()
        self._kept.mkdir(parents=True, exist_ok=True)

    def measure(self) -> None:
        """Every server in every round, with the ceilings in the middle of each round; every second round backwards."""
        turns = list(self._turns())
        for number, (turn, entrant) in enumerate(turns, 1):
            name = entrant.name if entrant else CEILING
            if not self._file(turn, entrant).is_file() and name not in self.status:
                begun = time.monotonic()
                told = self._measure(turn, entrant)
                print(
                    f"{number}/{len(turns)} round {turn + 1} {name}: {told} ({time.monotonic() - begun:.0f} s)",
                    flush=True,
                )
            self.result()

    def result(self) -> Figures:
        """All that is known; written down, too."""
        entrants = {entrant.name: self._entrant(entrant) for entrant in self.entrants}
        ceilings = self._rounds(None)
        found = {
            "machine": machine(),
            "versions": installed(LIBRARIES),
            "data": f"{Path(self.config.data.path).name}, {len(self.texts)} texts",
            "bundle": {"digest": self.bundle.digest, "graph": self.bundle.onnx_variant().precision},
            "config": self.config.model_dump(mode="json", include={"rounds", "seconds", "checked_texts"}),
            "entrants": entrants,
            "ceilings": {"median": _medians(ceilings), "rounds": ceilings} if ceilings else {},
            "aims": [
                {"name": aim.name, "measured": aim.measured, "bound": aim.bound, "met": aim.met, "line": str(aim)}
                for aim in aims(entrants, ceilings)
            ],
        }
        file = Path(self.config.result)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return found

    def _turns(self) -> Iterator[tuple[int, Entrant | None]]:
        middle = len(self.entrants) // 2
        order = [*self.entrants[:middle], None, *self.entrants[middle:]]
        for turn in range(self.config.rounds):
            yield from ((turn, entrant) for entrant in (order if turn % 2 == 0 else reversed(order)))

    def _measure(self, turn: int, entrant: Entrant | None) -> str:
        """Measures and keeps it; says how it went."""
        if entrant is None:
            figures = self._ceiling()
            told = f"{figures['single_texts_per_s']:.0f} and {figures['sorted_texts_per_s']:.0f} texts/s"
        else:
            try:
                figures = self._visit(entrant)
            except (NotInstalledError, ServerError) as error:
                kind = "not installed" if isinstance(error, NotInstalledError) else "failed"
                self.status[entrant.name] = f"{kind}: {error}"
                return self.status[entrant.name]
            told = (
                f"{figures['single']['per_s']:.0f} requests/s, {figures['batch']['per_s'] * 32:.0f} texts/s in batches"
            )
        self._file(turn, entrant).write_text(json.dumps(figures) + "\n", encoding="utf-8")
        return told

    def _visit(self, entrant: Entrant) -> Figures:
        python = python_of(entrant, Path(self.config.environments).absolute(), limit_s=self.config.install_s)
        with (
            running(entrant, python, self.bundle.path) as server,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(Visit(server, self.plan).measure())

    def _ceiling(self) -> Figures:
        order = {
            "bundle": str(self.bundle.path),
            "texts": self.texts,
            "seconds": self.config.seconds / 2,
            "cores": len(os.sched_getaffinity(0)),
        }
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.load.session_ceiling"],
            cwd=ROOT, input=json.dumps(order), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        figures: Figures = json.loads(ended.stdout.splitlines()[-1])
        return figures

    def _expected(self) -> list[Any]:
        """What the engine finds in each of the first texts alone."""
        from serving.inference.engine import Engine, EngineConfig

        engine = Engine(self.bundle, EngineConfig(provider="cpu", sessions=1, threads_per_session=1), num_cpus=1)
        return [entities(engine.predict([text]))[0] for text in self.texts[: self.config.checked_texts]]

    def _entrant(self, entrant: Entrant) -> Figures:
        rounds = self._rounds(entrant)
        status = self.status.get(entrant.name, "measured" if rounds else "not measured")
        about = {"name": entrant.name, "label": entrant.label, "ours": entrant.ours, "status": status}
        about |= {"settings": dict(entrant.settings), "packages": list(entrant.packages)}
        about |= {"same_graph": entrant.same_graph, "same_code": entrant.same_code, "rounds": rounds}
        return about | ({"median": medians(rounds)} if rounds else {})

    def _rounds(self, entrant: Entrant | None) -> list[Figures]:
        files = (self._file(turn, entrant) for turn in range(self.config.rounds))
        return [json.loads(file.read_text()) for file in files if file.is_file()]

    def _file(self, turn: int, entrant: Entrant | None) -> Path:
        """Named after all that decides what is measured."""
        config = self.config.model_dump(mode="json", include={"data", "seconds", "checked_texts"})
        what = [self.bundle.digest, config, machine()]
        if entrant:
            what += [entrant.command, dict(entrant.settings), entrant.packages]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
        return self._kept / f"{entrant.name if entrant else CEILING}-{digest}-{turn}.json"


def chosen(names: tuple[str, ...]) -> tuple[Entrant, ...]:
    """The servers of these names, in the roster's order; without names all.

    Raises:
        ConfigError: There is no server of that name.
    """
    known = {entrant.name: entrant for entrant in roster()}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"rivals holds {unknown[0]!r}", allowed=", ".join(known), remedy="leave rivals out to measure all"
        )
    return tuple(entrant for name, entrant in known.items() if not names or name in names)


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the libraries that are there."""
    there = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: there[name] for name in names if name in there}


def _medians(rounds: list[Figures]) -> Figures:
    names = [name for name, value in rounds[0].items() if isinstance(value, float)]
    return {name: statistics.median(figures[name] for figures in rounds) for name in names}


if __name__ == "__main__":
    sys.exit(cli.run(ServingBenchmark, main, usage=__doc__ or ""))
