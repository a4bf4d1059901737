"""A real engine that computes when the test says so."""

from __future__ import annotations

import threading
from pathlib import Path

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoding import Float32
from serving.inference.engine import Engine, EngineConfig


class Gated(Engine):
    """An engine that computes a number of batches, and no more until its gate opens."""

    gate: threading.Event
    free: int

    def forward(self, batch: Batch) -> Float32:
        self.free -= 1
        assert self.free >= 0 or self.gate.wait(20)
        return super().forward(batch)


def gated(path: Path, *, batches: int = 0) -> Gated:
    """An engine whose batches hold 128 tokens, or some texts."""
    engine = Gated(
        Bundle.load(path), EngineConfig(sessions=1, executor="threads", max_batch_tokens=4_096 if batches else 128)
    )
    engine.gate, engine.free = threading.Event(), batches
    return engine
