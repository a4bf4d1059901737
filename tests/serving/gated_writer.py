"""A real engine of agents that write, which writes when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.bundle import Bundle
from serving.inference.engine import EngineConfig
from serving.inference.writer import Pause, WritingConfig, WritingJob, never
from serving.inference.writing_engine import WritingEngine
from tests.waiting import until


class GatedWriter(WritingEngine):
    """An engine that writes when the test says so, and remembers what it was given together."""

    gate: threading.Event
    batches: list[list[int]]
    fails = False

    def write(self, jobs: Sequence[WritingJob], pause: Pause = never, *further: Any) -> None:
        self.batches.append([len(job.given) for job in jobs])
        assert self.gate.wait(20)
        if self.fails:
            raise RuntimeError("planted")

        def ask() -> bool:
            self.at_step(jobs)
            return pause()

        super().write(jobs, ask, *further)

    def at_step(self, jobs: Sequence[WritingJob]) -> None:
        """Called with each token from the `slice_steps`-th on."""


def gated_writer(path: Path, *, kind: type[Any] = GatedWriter, closed: bool = True, **writing: int) -> Any:
    config = EngineConfig(writing=WritingConfig(**writing))
    engine = kind(Bundle.load(path), config, precision="fp32", num_cpus=1)
    engine.gate, engine.batches = threading.Event(), []
    if not closed:
        engine.gate.set()
    return engine


class Left(GatedWriter):
    """Remembers how far a text had come; after three tokens its caller is gone."""

    written: list[int]
    leave: Any = None

    def at_step(self, jobs: Sequence[WritingJob]) -> None:
        self.written.append(len(jobs[0].written.numbers))
        if self.written[-1] == 3:
            self.leave()
            assert until(lambda: jobs[0].abandoned, 20, pause_s=0.001)
