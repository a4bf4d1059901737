"""What runs on every worker: epochs, evaluation, checkpoints. Ray Train starts it; all state comes in one payload."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.errors import AgentError, TrainingError
from cluster import ray_output
from training.data.batch_plan import EpochPlan, plan_epoch
from training.engine.out_of_memory import is_out_of_memory, out_of_memory
from training.loop.checkpoint_manager import CheckpointManager, load_newest
from training.loop.divergence import DivergenceMonitor
from training.loop.evaluation_pass import directory_forward, engine_forward, score
from training.loop.train_step import PreparedStep
from training.loop.worker_setup import WorkerRank, assemble
from training.state.restart_state import RestartState, Start
from training.state.run_state import RunState
from training.state.worker_io import EvaluationSet, Outcome, Payload
from training.tracking.run_observers import RunObservers, Standing

if TYPE_CHECKING:
    import torch

    from agent.evaluation import Forward
    from agent.tasks import Report

_SMALLEST_MICRO_BATCH = 32  # tokens; half of it is the least that the configuration takes


def train_worker(loop_config: Mapping[str, Any]) -> Outcome | AgentError:
    """Entry point for Ray Train. An error that would only come again is handed back instead of raised, which ends the run."""
    import ray
    import ray.train

    board: RestartState = loop_config["board"]
    context = ray.train.get_context()
    start = board.begin(context.get_world_rank())
    if start.failure:
        return start.failure
    payload: Payload = ray.get(loop_config["payload"])
    try:
        return Worker(payload, start).run()
    except AgentError as error:
        board.fail(error)
        if isinstance(error, TrainingError) or context.get_world_size() == 1:
            return error  # all workers found the same
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise _give_way(board, payload, start.micro_tokens, error) from None
        raise


def _give_way(board: RestartState, payload: Payload, micro_tokens: int, error: Exception) -> TrainingError:
    """Leaves a note for the next worker group: smaller micro-batches, or the end."""
    short = out_of_memory(error, micro_tokens=micro_tokens)
    if payload.config.batch.halve_on_oom and micro_tokens >= _SMALLEST_MICRO_BATCH:
        print(f"{short.what}; going on with {micro_tokens // 2}", flush=True)
        board.halve(micro_tokens)
    else:
        board.fail(short)
    return short


class Worker:
    """One data-parallel worker.

    Args:
        payload: What to train, on what.
        start: What earlier worker groups of this run have left.
    """

    def __init__(self, payload: Payload, start: Start) -> None:
        self.payload, self.config = payload, payload.config
        _be_quiet()
        self.place = _place()
        checkpoint = load_newest(payload.store, self.place.rank)
        self.state = checkpoint.state if checkpoint else RunState()
        num_steps = sum(len(self._plan(epoch)) for epoch in range(self.config.epochs))
        self.standing = Standing(num_steps, self.state, checkpoint.journal if checkpoint else [], start.starts)
        self.assembly = assemble(payload, self.place, checkpoint, num_steps=num_steps, micro_tokens=start.micro_tokens)
        self.keeper = CheckpointManager(payload.store, self.assembly)
        self.guard = DivergenceMonitor()
        if checkpoint:
            self.keeper.check(self.state)

    def run(self) -> Outcome:
        """Trains all epochs that are left; returns the outcome (meaningful on worker 0)."""
        with ExitStack() as stack:
            stack.callback(self.keeper.close)
            onlookers = stack.enter_context(self._onlookers())
            if self.state.before is None:
                self.state.before, _ = self._score(self.payload.test, engine_forward(self.assembly))
            while self.state.epoch < self.config.epochs and not self._out_of_patience():
                self._train_epoch(onlookers)
                self._close_epoch(onlookers)
            with self.keeper.best_model() as directory:
                after, predictions = self._score(self.payload.test, directory_forward(self.assembly, directory))
            onlookers.finish(self.state.before, after)
            return self._outcome(after, predictions, onlookers.journal.lines)

    def _train_epoch(self, onlookers: RunObservers) -> None:
        plan = self._plan(self.state.epoch)
        engine, every = self.assembly.engine, self.config.checkpoint.every_steps
        engine.train(True)
        unread: _Unread | None = None
        begun = time.perf_counter()
        for step, waited in self.assembly.feed.steps(plan, self.state.steps_in_epoch):
            learning_rate = engine.learning_rate
            loss = self.assembly.stepper.run(step, self.state.step)
            self.state.step += 1
            self.state.steps_in_epoch += 1
            self._read(unread, onlookers)  # a GPU is at this step while the loss of the one before is read
            now = time.perf_counter()
            unread = _Unread(
                step, loss, self._row(step, len(plan), learning_rate) | {"seconds": now - begun, "host_s": waited}
            )
            begun = now
            if self.state.step % every == 0 and self.state.steps_in_epoch < len(plan):
                self._read(unread, onlookers)
                unread = None
                self.keeper.save(self.state, onlookers)
                begun = time.perf_counter()
        self._read(unread, onlookers)

    def _row(self, step: PreparedStep, num_steps: int, learning_rate: float) -> dict[str, Any]:
        return {
            "kind": "step",
            "step": self.state.step,
            "epoch": self.state.epoch + self.state.steps_in_epoch / num_steps,
            "learning_rate": learning_rate,
            "tokens": step.tokens,
            "padded_tokens": step.padded_tokens,
            "sentences": step.sentences,
            "num_workers": self.place.num_workers,
        }

    def _read(self, unread: _Unread | None, onlookers: RunObservers) -> None:
        """Reads the loss of a step, notes the step and looks whether training may go on."""
        if unread is None:
            return
        step, row = unread.step, unread.row
        row["loss"] = float(unread.loss) / max(1, step.labelled)
        self.state.totals.add(row, step.labelled)
        onlookers.step(row)
        sentences = np.unique(self.payload.train.owners[step.rows]).astype(np.int64)
        self.guard.check(row["loss"], step=row["step"], learning_rate=row["learning_rate"], sentences=sentences)

    def _close_epoch(self, onlookers: RunObservers) -> None:
        import ray.train

        begun = time.perf_counter()
        report, _ = self._score(self.payload.dev, engine_forward(self.assembly))
        figures = {
            "epoch": self.state.epoch + 1,
            "step": self.state.step,
            "learning_rate": self.assembly.engine.learning_rate,
            "dev_f1": report.value,
            "evaluation_s": time.perf_counter() - begun,
            **self.state.totals.summary(),
        }
        self.state.close_epoch(report, figures, min_delta=self.config.early_stopping.min_delta)
        onlookers.epoch({"kind": "epoch", **figures}, best=self.state.improved, epochs=self.config.epochs)
        self.keeper.save(self.state, onlookers)
        ray.train.report(figures)

    def _score(self, split: EvaluationSet, forward: Forward) -> tuple[Report, list[Any]]:
        return score(self.payload, split, forward, rank=self.place.rank)

    def _out_of_patience(self) -> bool:
        patience = self.config.early_stopping.patience
        return patience is not None and self.state.stale >= patience

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.payload.train.lengths, config=self.config.batch, seed=self.config.seed, epoch=epoch)

    @contextmanager
    def _onlookers(self) -> Iterator[RunObservers]:
        with RunObservers(self.payload, self.standing, shows=self.place.rank == 0) as onlookers:
            onlookers.note(f"{self.assembly.description}, {self.standing.total} steps")
            if self.state.step:
                onlookers.note(
                    f"resumed after step {self.state.step} of {self.standing.total} (epoch {self.state.epoch + 1}, "
                    f"{self.state.steps_in_epoch} of its steps done) with {self.place.num_workers} worker(s)"
                )
            yield onlookers

    def _outcome(self, after: Report, predictions: list[Any], journal: list[str]) -> Outcome:
        assert self.state.before
        assert self.state.dev
        return Outcome(
            before=self.state.before,
            after=after,
            dev=self.state.dev,
            best_epoch=self.state.best_epoch,
            history=self.state.history,
            journal=journal,
            predictions=predictions,
            description=f"{self.assembly.description}, {self.standing.total} steps",
        )


@dataclass(frozen=True)
class _Unread:
    """A step whose loss has not been read yet, and its row without it."""

    step: PreparedStep
    loss: torch.Tensor
    row: dict[str, Any]


def _place() -> WorkerRank:
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    return WorkerRank(context.get_world_rank(), context.get_world_size(), device)


def _be_quiet() -> None:
    """The new head is expected to be missing from the weights, bars of a second are no progress, reports are ours."""
    import logging

    import transformers

    logging.getLogger().setLevel(logging.WARNING)
    ray_output.show_own_logs()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
