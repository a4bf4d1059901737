"""Loads the newest checkpoint of a run, verifies it, and writes new ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import CheckpointError
from training.model.adapters import merged_weights, unwrap
from training.state.checkpoint import BEST, LAST, Checkpoint, CheckpointWriter
from training.state.directory_store import DirectoryStore

if TYPE_CHECKING:
    import torch

    from training.loop.worker_setup import WorkerComponents
    from training.state.run_state import RunState
    from training.tracking.run_observers import RunObservers

_PROBE_WINDOWS = 8
_PROBE_TOLERANCE = 0.02  # of the loss: what kernels and threads may change, far below what other weights do


def load_newest(store: DirectoryStore, rank: int) -> Checkpoint | None:
    """The newest checkpoint, the same on all workers; None if there is none. All workers call it.

    Raises:
        CheckpointError: There is one, and it cannot be read.
    """
    import torch.distributed as dist

    newest: list[str | None] = [None]
    if rank == 0:
        store.remove_incomplete()
        newest = list(store.names(LAST)[-1:]) or [None]
    dist.broadcast_object_list(newest)
    if newest[0] is None:
        return None
    checkpoint = _read(store, newest[0])
    dist.barrier()
    if rank == 0:
        _remove_later_models(store, checkpoint.state.best_epoch)
    return checkpoint


def _read(store: DirectoryStore, name: str) -> Checkpoint:
    from safetensors import SafetensorError

    with store.fetch(name) as directory:
        try:
            return Checkpoint.read(directory)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {name} at {store.url} cannot be read ({error})",
                remedy="remove it, or set resume=false to start afresh",
            ) from None


def _remove_later_models(store: DirectoryStore, best_epoch: int) -> None:
    """A run that was killed between writing a model and the checkpoint that knows of it comes to that epoch again."""
    for name in store.names(BEST):
        if int(name.removeprefix(BEST)) > best_epoch:
            store.remove(name)


class CheckpointManager:
    """Writes checkpoints of a run; workers other than the first only take part in gathering.

    Args:
        store: Of the checkpoints.
        components: The worker's, whose state is saved.
    """

    def __init__(self, store: DirectoryStore, components: WorkerComponents) -> None:
        self._store, self._components = store, components
        self._writer = CheckpointWriter(store)
        self._probe = np.arange(min(_PROBE_WINDOWS, len(components.prefetcher.windows.labelled)), dtype=np.int64)

    def close(self) -> None:
        """Waits until everything is written."""
        self._writer.close()

    def wait(self) -> None:
        """Waits on all workers until the first has written everything."""
        import torch.distributed as dist

        self._writer.wait()
        dist.barrier()

    def verify(self, state: RunState) -> None:
        """Compares the loss of the loaded model with the one recorded, so that no run silently starts from scratch.

        Raises:
            CheckpointError: The loss on a few windows is not the one recorded.
        """
        loss = self._components.train_step.probe_loss(self._probe)
        if abs(loss - state.probe_loss) <= _PROBE_TOLERANCE * max(1.0, abs(state.probe_loss)):
            return
        raise CheckpointError(
            f"the model loaded from {self._store.url} gives a loss of {loss:.4f} where {state.probe_loss:.4f} was recorded",
            remedy="look whether torch, transformers or the data changed, or set resume=false to start afresh",
        )

    def save(self, state: RunState, observers: RunObservers) -> None:
        """Gathers a checkpoint and starts to write it while training goes on. All workers call it.

        Raises:
            CheckpointError: The storage took neither this one nor the one before.
        """
        start = time.perf_counter()
        engine = self._components.engine
        state.probe_loss = self._components.train_step.probe_loss(self._probe)
        weights, optimizer = engine.gather_weights(), engine.gather_optimizer()
        if weights is not None and optimizer is not None:
            state.trackers = observers.trackers_state
            if state.improved and not state.steps_in_epoch:
                self._writer.submit(BEST, state.epoch, partial(write_model, self._components.model, weights=weights))
            checkpoint = Checkpoint(weights, optimizer, state.model_copy(deep=True), list(observers.metrics_log.lines))
            self._writer.submit(LAST, state.step, checkpoint.write)
        state.totals.save_s += time.perf_counter() - start

    @contextmanager
    def best_model(self) -> Iterator[Path]:
        """The best epoch's model as a Hugging Face directory, on every worker."""
        self.wait()
        with self._store.fetch(self._store.names(BEST)[-1]) as directory:
            yield directory


def write_model(model: torch.nn.Module, directory: Path, weights: dict[str, torch.Tensor]) -> None:
    """Writes the plain model as transformers does, from the gathered weights of one that may be adapted or taught."""
    from training.distillation.distillation_loss import without_projections

    unwrap(model).save_pretrained(directory, state_dict=without_projections(merged_weights(model, weights)))
