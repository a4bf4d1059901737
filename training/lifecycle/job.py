"""A training run on the driver, from configuration to bundle: data, cluster, workers, publishing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from agent.bundle import Bundle
from agent.errors import AgentError, CheckpointError
from agent.tasks import SequenceToSequence
from cluster import WorkerPlan
from cluster.output_lock import lock_output
from training.config import TrainingConfig, absolute, output_of
from training.data.batch_plan import BatchConfig
from training.data.masked_windows import MaskedWindows
from training.data.packing import Windows
from training.data.written_windows import WrittenWindows
from training.engine.ray_train_internals import (
    cluster_address_for_helpers,
    no_preemption_watcher,
    root_cause,
    trainer_without_datasets,
)
from training.lifecycle.preparation import NO_OVERRIDES, PreparedRun, RunOverrides, prepare_run
from training.lifecycle.publish import publish
from training.lifecycle.resume import checkpoint_store, find_finished, start_or_resume
from training.loop.worker_io import TrainingOutcome, WorkerInput, evaluation_set
from training.state.directory_store import DirectoryStore
from training.tracking.ray_metrics import count_failure


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `outcome` is None if an earlier command had finished it."""

    bundle: Bundle
    outcome: TrainingOutcome | None


def train(config: TrainingConfig, overrides: RunOverrides = NO_OVERRIDES) -> TrainingResult:
    """Fine-tunes an agent and writes its bundle. Resumes what an earlier, interrupted call has left at the same output.

    Raises:
        AgentError: Configuration, data, model, cluster or output are not in order, or training cannot go on. Nothing is lost.
    """
    config, output = absolute(config), output_of(config)
    store = checkpoint_store(config, output)
    with lock_output(output), _lock_storage(config, store):
        if done := find_finished(config, output):
            store.clear()  # a command killed right after it had published leaves them
            return TrainingResult(done, None)
        prepared = prepare_run(config, overrides)
        run = start_or_resume(config, output, prepared.data.digest, prepared.other_digests)
        print(f"plan: {prepared.plan}{'; goes on with an unfinished run' if run.resumes else ''}", flush=True)
        return run_training(prepared, run.store)


def _lock_storage(config: TrainingConfig, store: DirectoryStore) -> AbstractContextManager[None]:
    """Locks shared storage against a run of another output with the same name. S3 has no lock for that."""
    if config.checkpoint.storage and store.directory:
        return lock_output(store.directory, error=CheckpointError)
    return nullcontext()


def run_training(prepared: PreparedRun, store: DirectoryStore) -> TrainingResult:
    """Trains from the newest checkpoint in the store on, writes the bundle and clears the store.

    Raises:
        AgentError: Training cannot go on, or its outcome cannot be written.
    """
    try:
        outcome = _fit(prepared, store)
        bundle = publish(prepared, outcome, store)
    except Exception as error:
        count_failure(Path(prepared.config.output).name, error)
        raise
    store.clear()
    return TrainingResult(bundle, outcome)


def _fit(prepared: PreparedRun, store: DirectoryStore) -> TrainingOutcome:
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from training.loop.worker import train_worker
    from training.state.restart_state import start_restart_actor

    config, plan = prepared.config, prepared.plan
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker is printed twice
    trainer = trainer_without_datasets()(
        train_worker,
        train_loop_config={
            "worker_input": ray.put(_worker_input(prepared, store)),
            "restart_state": start_restart_actor(config.batch.micro_tokens, config.max_failures),
        },
        scaling_config=ScalingConfig(
            num_workers=(config.num_workers_min, plan.num_workers) if config.num_workers_min else plan.num_workers,
            use_gpu=plan.use_gpu,
            resources_per_worker=_resources(plan),
            elastic_resize_monitor_interval_s=config.resize_check_s,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=store.ray_train_url,
            failure_config=FailureConfig(max_failures=config.max_failures + _num_halvings(config.batch)),
            callbacks=list(prepared.callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        local = no_preemption_watcher() if config.cluster.joined is None else nullcontext()
        with local, cluster_address_for_helpers():
            outcome: TrainingOutcome | AgentError = trainer.fit().return_value
    except TrainingFailedError as error:
        raise root_cause(error) from error
    if isinstance(outcome, AgentError):
        raise outcome
    return outcome


def _num_halvings(batch: BatchConfig) -> int:
    """Worker groups that may end for lack of memory, beside those that may end otherwise."""
    return batch.micro_tokens.bit_length() if batch.halve_on_oom else 0


def _worker_input(prepared: PreparedRun, store: DirectoryStore) -> WorkerInput:
    data, encoder, config = prepared.data, prepared.encoder, prepared.config
    return WorkerInput(
        config.model_copy(update={"tracking": config.tracking.absolute()}),
        data.task,
        train=_training_windows(prepared),
        dev=evaluation_set(data.task, encoder, data.dev),
        test=evaluation_set(data.task, encoder, data.test),
        store=store,
        max_tokens=encoder.max_tokens,
        pad_id=encoder.pad_id,
        interactive=sys.stderr.isatty(),
        run_name=Path(config.output).name,
    )


def _training_windows(prepared: PreparedRun) -> Windows:
    """The windows as batches are made of them."""
    data = prepared.data
    if data.task.writes:
        return WrittenWindows(data.train, decodes=isinstance(data.task, SequenceToSequence))
    masking = data.task.masking(prepared.encoder)
    return MaskedWindows(data.train, masking, prepared.config.seed) if masking else data.train


def _resources(plan: WorkerPlan) -> Mapping[str, float]:
    return {"CPU": plan.cpus_per_worker, **({"GPU": 1} if plan.use_gpu else {})}
