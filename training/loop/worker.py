"""The program of a training worker: epochs of steps, evaluation on dev and test, checkpoints. Ray Train starts it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.errors import AgentError, TrainingError
from cluster import ray_output
from training.data.batch_plan import EpochPlan, plan_epoch
from training.engine.deepspeed_internals import import_without_mlflow
from training.engine.out_of_memory import is_out_of_memory, out_of_memory
from training.loop.checkpoint_manager import CheckpointManager, load_newest
from training.loop.divergence import DivergenceMonitor
from training.loop.evaluation_pass import directory_forward, engine_forward, predict_split
from training.loop.generated_texts import generated_texts
from training.loop.guessing import guessing_forward
from training.loop.train_step import PreparedStep
from training.loop.worker_io import EvaluationSet, TrainingOutcome, WorkerInput
from training.loop.worker_setup import WorkerRank, build_components
from training.state.restart_state import WorkerStart
from training.state.run_state import RunState
from training.tracking.run_observers import RunInfo, RunObservers

if TYPE_CHECKING:
    import torch

    from agent.evaluation import Forward
    from agent.tasks import BaseTask, Report

_SMALLEST_MICRO_BATCH = 32  # tokens; half of it is the least that the configuration takes


def train_worker(loop_config: Mapping[str, Any]) -> TrainingOutcome | AgentError:
    """Entry point for Ray Train. An error that a restart would only repeat is returned instead of raised, which ends the run."""
    import ray
    import ray.train

    restart_state = loop_config["restart_state"]
    context = ray.train.get_context()
    start: WorkerStart = ray.get(restart_state.register.remote(context.get_world_rank()))
    if start.failure:
        return start.failure
    worker_input: WorkerInput = ray.get(loop_config["worker_input"])
    try:
        return Worker(worker_input, start).run()
    except AgentError as error:
        ray.get(restart_state.fail.remote(error))
        if isinstance(error, TrainingError) or context.get_world_size() == 1:
            return error  # the same on all workers
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise _halve_micro_batches(restart_state, worker_input, start.micro_tokens, error) from None
        if context.get_world_rank() == 0:
            print(traceback.format_exc(), flush=True)
            ray.get(restart_state.crash.remote(f"{type(error).__name__}: {error}"))
        raise


def _halve_micro_batches(
    restart_state: Any, worker_input: WorkerInput, micro_tokens: int, error: Exception
) -> TrainingError:
    """Has the next worker group use smaller micro-batches, or end the run if there are none smaller."""
    import ray

    failure = out_of_memory(error, micro_tokens=micro_tokens)
    if worker_input.config.batch.halve_on_oom and micro_tokens >= _SMALLEST_MICRO_BATCH:
        print(f"{failure.what}; going on with {micro_tokens // 2}", flush=True)
        ray.get(restart_state.halve.remote(micro_tokens))
    else:
        ray.get(restart_state.fail.remote(failure))
    return failure


class Worker:
    """One data-parallel worker.

    Args:
        worker_input: Configuration and data.
        start: What earlier worker groups of this run found out.
    """

    def __init__(self, worker_input: WorkerInput, start: WorkerStart) -> None:
        self.input, self.config = worker_input, worker_input.config
        _silence_libraries()
        self.worker = _worker_rank()
        checkpoint = load_newest(worker_input.store, self.worker.rank)
        self.state = checkpoint.state if checkpoint else RunState()
        self.num_steps = sum(len(self._plan(epoch)) for epoch in range(self.config.num_epochs))
        self.log_lines = checkpoint.metrics_log if checkpoint else []
        self.restarts = start.starts
        self.components = build_components(
            worker_input, self.worker, checkpoint, num_steps=self.num_steps, micro_tokens=start.micro_tokens
        )
        self.checkpoints = CheckpointManager(worker_input.store, self.components)
        self.generated = generated_texts(worker_input.task, self.components, self.worker.rank, worker_input.max_tokens)
        self.divergence = DivergenceMonitor()
        if checkpoint:
            self.checkpoints.verify(self.state)

    def run(self) -> TrainingOutcome:
        """Trains the epochs that are left; returns the outcome (meaningful on worker 0)."""
        with ExitStack() as stack:
            stack.callback(self.checkpoints.close)
            observers = stack.enter_context(self._observers())
            if self.state.before is None:
                self.state.before = self._score_as_it_is(self.input.test)
            while self.state.epoch < self.config.num_epochs and not self._out_of_patience():
                self._train_epoch(observers)
                self._close_epoch(observers)
            with self.checkpoints.best_model() as directory:
                forward = directory_forward(self.components, directory)
                task = self._tune(forward) if self.input.task.tunes else self.input.task
                predictions = self._predict(self.input.test, forward, task)
                after = task.score(self.input.test.examples, predictions)
                if self.generated:
                    after = self.generated.score_whole(after, self.input.test, directory)
            observers.finish(self.state.before, after)
            guess = self.state.before.value if self.components.is_new else self._score_of_guessing()
            return self._outcome(task, after, guess, predictions, observers.metrics_log.lines)

    def _train_epoch(self, observers: RunObservers) -> None:
        epoch = self.state.epoch
        plan = self._plan(epoch)
        engine, every = self.components.engine, self.config.checkpoint.every_steps
        engine.train(True)
        pending: _PendingLoss | None = None
        start = time.perf_counter()
        for step, waited in self.components.prefetcher.steps(plan, self.state.steps_in_epoch, epoch=epoch):
            learning_rate = engine.learning_rate
            loss = self.components.train_step.run(step, self.state.step)
            self.state.step += 1
            self.state.steps_in_epoch += 1
            self._record_step(pending, observers)  # a GPU computes this step while the loss of the one before is read
            now = time.perf_counter()
            row = self._row(step, len(plan), learning_rate) | {"seconds": now - start, "host_s": waited}
            pending = _PendingLoss(step, loss, row)
            start = now
            if self.state.step % every == 0 and self.state.steps_in_epoch < len(plan):
                self._record_step(pending, observers)
                pending = None
                self.checkpoints.save(self.state, observers)
                start = time.perf_counter()
        self._record_step(pending, observers)

    def _row(self, step: PreparedStep, num_steps: int, learning_rate: float) -> dict[str, Any]:
        return {
            "kind": "step",
            "step": self.state.step,
            "epoch": self.state.epoch + self.state.steps_in_epoch / num_steps,
            "learning_rate": learning_rate,
            "tokens": step.tokens,
            "padded_tokens": step.padded_tokens,
            "sentences": step.sentences,
            "num_workers": self.worker.num_workers,
        }

    def _record_step(self, pending: _PendingLoss | None, observers: RunObservers) -> None:
        """Reads the loss of a step, records its row and checks for divergence."""
        if pending is None:
            return
        step, row = pending.step, pending.row
        row["loss"] = float(pending.loss) / max(1, step.labelled)
        self.state.totals.add(row, step.labelled)
        observers.step(row)
        sentences = np.unique(self.input.train.owners[step.rows]).astype(np.int64)
        self.divergence.check(row["loss"], step=row["step"], learning_rate=row["learning_rate"], sentences=sentences)

    def _close_epoch(self, observers: RunObservers) -> None:
        import ray.train

        start = time.perf_counter()
        report = self._score_as_it_is(self.input.dev)
        row = {
            "epoch": self.state.epoch + 1,
            "step": self.state.step,
            "learning_rate": self.components.engine.learning_rate,
            "dev_score": report.value,
            "evaluation_s": time.perf_counter() - start,
            **self.state.totals.summary(),
        }
        self.state.close_epoch(report, row, min_delta=self.config.early_stopping.min_delta)
        observers.epoch(
            {"kind": "epoch", **row}, best=self.state.improved, epochs=self.config.num_epochs, score=report.score_name
        )
        self.checkpoints.save(self.state, observers)
        ray.train.report(row)

    def _score_as_it_is(self, split: EvaluationSet) -> Report:
        """How good the model in training is on a split."""
        report = self._score(split, engine_forward(self.components))
        return self.generated.score_sample(report, split) if self.generated else report

    def _score_of_guessing(self) -> float:
        """What the shares of labels score on the test split; sub-words of a vocabulary are not guessed."""
        task, train = self.input.task, self.input.train
        if task.decision.of_vocabulary:
            return 0.0
        counts = train.target_counts(len(task.outputs)).tolist()
        num_windows = train.num_labelled // task.decision.targets_per_window(len(counts))
        return self._score(self.input.test, guessing_forward(task.decision, counts, num_windows)).value

    def _score(self, split: EvaluationSet, forward: Forward) -> Report:
        predictions, task = self._predict(split, forward), self.input.task
        return task.tuned(split.examples, predictions).score(split.examples, predictions)

    def _predict(self, split: EvaluationSet, forward: Forward, task: BaseTask[Any] | None = None) -> list[Any]:
        task = task or self.input.task
        return predict_split(task, split, forward, pad_id=self.input.pad_id, rank=self.worker.rank)

    def _tune(self, forward: Forward) -> BaseTask[Any]:
        """The task with what it chooses by the best model's predictions of dev, which are scored again with it."""
        dev = self.input.dev.examples
        predictions = self._predict(self.input.dev, forward)
        task = self.input.task.tuned(dev, predictions)
        self.state.dev = task.score(dev, predictions)
        return task

    def _out_of_patience(self) -> bool:
        patience = self.config.early_stopping.patience
        assert patience != "auto"
        return patience is not None and self.state.stale >= patience

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(self.input.train.lengths, config=self.config.batch, seed=self.config.seed, epoch=epoch)

    @contextmanager
    def _observers(self) -> Iterator[RunObservers]:
        run = RunInfo(
            self.input.run_name,
            self.num_steps,
            self.restarts,
            tracking=self.config.tracking,
            parameters=self.config.model_dump(mode="json"),
            interactive=self.input.interactive,
        )
        with RunObservers(run, self.state, self.log_lines, active=self.worker.rank == 0) as observers:
            observers.print_line(f"{self.components.description}, {self.num_steps} steps")
            if self.state.step:
                observers.print_line(
                    f"resumed after step {self.state.step} of {self.num_steps} (epoch {self.state.epoch + 1}, "
                    f"{self.state.steps_in_epoch} of its steps done) with {self.worker.num_workers} worker(s)"
                )
            yield observers

    def _outcome(
        self, task: BaseTask[Any], after: Report, guess: float, predictions: list[Any], metrics_log: list[str]
    ) -> TrainingOutcome:
        assert self.state.before
        assert self.state.dev
        return TrainingOutcome(
            before=self.state.before,
            after=after,
            dev=self.state.dev,
            guess=guess,
            best_epoch=self.state.best_epoch,
            history=self.state.history,
            metrics_log=metrics_log,
            predictions=predictions,
            task=task,
            description=f"{self.components.description}, {self.num_steps} steps",
        )


@dataclass(frozen=True)
class _PendingLoss:
    """A step whose loss has not been read from the device yet, and its row without it."""

    step: PreparedStep
    loss: torch.Tensor
    row: dict[str, Any]


def _worker_rank() -> WorkerRank:
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import_without_mlflow()
    return WorkerRank(context.get_world_rank(), context.get_world_size(), device)


def _silence_libraries() -> None:
    """Hides transformers' warnings (the new head is expected to be missing from the weights) and progress bars."""
    import logging

    import transformers

    logging.getLogger().setLevel(logging.WARNING)
    ray_output.show_own_logs()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
