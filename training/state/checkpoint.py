"""Checkpoints that any ZeRO stage and any number of workers can load.

They hold whole weights, optimizer moments by parameter name and the position. Random numbers need no state, since each step is
seeded by its number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from agent.config.base import Config
from training.engine.optimizer_state import OptimizerState
from training.state.directory_store import DirectoryStore
from training.state.run_state import RunState

if TYPE_CHECKING:
    import torch

LAST, BEST = "last-", "best-"
_WEIGHTS, _MOMENTS, _STATE, _METRICS = "weights.safetensors", "optimizer.safetensors", "state.json", "metrics.jsonl"


class CheckpointConfig(Config):
    """Where and how often checkpoints are written."""

    storage: str | None = Field(
        None,
        description="directory or s3://bucket/prefix that all nodes reach; default: a hidden directory beside output",
    )
    every_steps: int = Field(500, ge=1, description="optimizer steps between checkpoints; every epoch ends with one")

    @field_validator("storage")
    @classmethod
    def _no_secrets(cls, storage: str | None) -> str | None:
        if storage and "://" in storage and "@" in urlsplit(storage).netloc:
            raise ValueError("a URI is printed and saved with the bundle; give keys by AWS_ACCESS_KEY_ID and its kin")
        return storage


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        weights: float32, the whole model's, by name; layers that share a matrix share a tensor, which is stored once.
        optimizer: Moments and counters.
        state: The position.
        metrics_log: Rows of the run up to here, as JSON lines.
    """

    weights: dict[str, torch.Tensor]
    optimizer: OptimizerState
    state: RunState
    metrics_log: list[str]

    def write(self, directory: Path) -> None:
        """Writes safetensors and JSON; no pickle."""
        from safetensors.torch import save_file

        names = {id(tensor): name for name, tensor in reversed(self.weights.items())}
        shared = {name: first for name, tensor in self.weights.items() if (first := names[id(tensor)]) != name}
        stored = {name: tensor.contiguous() for name, tensor in self.weights.items() if name not in shared}
        save_file(stored, directory / _WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in self.optimizer.moments.items()}, directory / _MOMENTS)
        state = {"counters": self.optimizer.counters, "shared": shared, "run": self.state.model_dump(mode="json")}
        (directory / _STATE).write_text(json.dumps(state), encoding="utf-8")
        (directory / _METRICS).write_text("".join(f"{line}\n" for line in self.metrics_log), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Reads what `write` wrote."""
        from safetensors.torch import load_file

        state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        weights = load_file(directory / _WEIGHTS)
        return cls(
            weights | {name: weights[first] for name, first in state["shared"].items()},
            OptimizerState(load_file(directory / _MOMENTS), state["counters"]),
            RunState.model_validate(state["run"]),
            (directory / _METRICS).read_text(encoding="utf-8").split("\n")[:-1],  # splitlines would cut at U+2028 too
        )


class CheckpointWriter:
    """Writes entries of a store in a background thread, one after the other.

    When a `last-` entry is complete, those before it and all but the newest `best-` one are removed: not earlier, since a killed
    run goes on from the `last-` entry, which knows only the best of its time.
    """

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, kind: str, number: int, write: Callable[[Path], None]) -> None:
        """Starts writing `<kind><number>`; waits for the entry before it, whose failure is raised here.

        Raises:
            CheckpointError: The storage is full or may not be written.
        """
        self.wait()
        self._pending = self._pool.submit(self._write, kind, f"{kind}{number:08d}", write)

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            CheckpointError: It could not be written.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def close(self) -> None:
        """Waits and ends the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def _write(self, kind: str, name: str, write: Callable[[Path], None]) -> None:
        if name in self._store.names(kind):  # a resumed run comes to the same step again
            return
        with self._store.draft(name) as directory:
            write(directory)
        for older in self._superseded(name) if kind == LAST else ():
            self._store.remove(older)

    def _superseded(self, last: str) -> list[str]:
        return [name for name in self._store.names(LAST) if name < last] + self._store.names(BEST)[:-1]
