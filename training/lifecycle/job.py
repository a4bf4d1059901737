"""A training run as a whole: data, cluster, workers, bundle. Runs on the driver and computes nothing itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from agent.bundle import Bundle
from agent.errors import AgentError, CheckpointError
from cluster import WorkerPlan
from training.config import TrainingConfig, absolute, output_of
from training.data.batch_plan import BatchConfig
from training.lifecycle.output_lock import claim
from training.lifecycle.preparation import ALONE, Ready, RunOverrides, get_ready
from training.lifecycle.publish import publish
from training.lifecycle.resume import begin, checkpoint_store, finished
from training.state.directory_store import DirectoryStore
from training.state.worker_io import Outcome, Payload, evaluation_set
from training.tracking.ray_metrics import count_failure


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `outcome` is None if an earlier command had finished it."""

    bundle: Bundle
    outcome: Outcome | None


def train(config: TrainingConfig, company: RunOverrides = ALONE) -> TrainingResult:
    """Fine-tunes an agent and writes its bundle. Goes on with what an earlier, interrupted call has left at the same output.

    Raises:
        AgentError: Configuration, data, model, cluster or output are not in order, or training cannot go on. Nothing is lost.
    """
    config, output = absolute(config), output_of(config)
    store = checkpoint_store(config, output)
    with claim(output), _claim_storage(config, store):
        if done := finished(config, output):
            store.clear()  # a command killed right after it had published leaves them
            return TrainingResult(done, None)
        ready = get_ready(config, company)
        run = begin(config, output, ready.data.digest, ready.other_digests)
        print(f"plan: {ready.plan}{'; goes on with an unfinished run' if run.resumes else ''}", flush=True)
        return carry_out(ready, run.store)


def _claim_storage(config: TrainingConfig, store: DirectoryStore) -> AbstractContextManager[None]:
    """There a run of another output with the same name would meet this one. S3 has nothing to lock it with."""
    if config.checkpoint.storage and store.directory:
        return claim(store.directory, error=CheckpointError)
    return nullcontext()


def carry_out(ready: Ready, store: DirectoryStore) -> TrainingResult:
    """Trains, from the newest checkpoint in the store on, writes the bundle and clears the store.

    Raises:
        AgentError: Training cannot go on, or its outcome cannot be written.
    """
    try:
        outcome = _fit(ready, store)
        bundle = publish(ready, outcome, store)
    except Exception as error:
        count_failure(Path(ready.config.output).name, error)
        raise
    store.clear()
    return TrainingResult(bundle, outcome)


def _fit(ready: Ready, store: DirectoryStore) -> Outcome:
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from training.loop.worker import train_worker
    from training.state.restart_state import RestartState

    config, plan = ready.config, ready.plan
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker is printed twice
    elastic = (config.num_workers_min, plan.num_workers) if config.num_workers_min else plan.num_workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "payload": ray.put(_payload(ready, store)),
            "board": RestartState(config.batch.micro_tokens),
        },
        scaling_config=ScalingConfig(
            num_workers=elastic,
            use_gpu=plan.use_gpu,
            resources_per_worker=_resources(plan),
            elastic_resize_monitor_interval_s=config.resize_check_s,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=store.beside,
            failure_config=FailureConfig(max_failures=config.max_failures + _halvings(config.batch)),
            callbacks=list(ready.callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        with _our_cluster_by_name():
            outcome: Outcome | AgentError = trainer.fit().return_value
    except TrainingFailedError as error:
        raise _root_cause(error) from error
    if isinstance(outcome, AgentError):
        raise outcome
    return outcome


def _halvings(batch: BatchConfig) -> int:
    """Worker groups that may end for want of memory, beside those that may end otherwise."""
    return batch.micro_tokens.bit_length() if batch.halve_on_oom else 0


def _payload(ready: Ready, store: DirectoryStore) -> Payload:
    data, encoder = ready.data, ready.encoder
    config = ready.config
    return Payload(
        config.model_copy(update={"tracking": config.tracking.absolute()}),
        data.task,
        train=data.train,
        dev=evaluation_set(data.task, encoder, data.dev),
        test=evaluation_set(data.task, encoder, data.test),
        store=store,
        pad_id=encoder.pad_id,
        interactive=sys.stderr.isatty(),
        run=Path(config.output).name,
    )


@contextmanager
def _our_cluster_by_name() -> Iterator[None]:
    """Tells Ray Train's helpers which cluster is ours.

    Its PlacementGroupCleaner asks the state API without an address; with a second Ray on the machine it finds no controller
    in that one and removes our workers, or warns every second (seen with ray 2.60).
    """
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    before = os.environ.get("RAY_ADDRESS")
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def _resources(plan: WorkerPlan) -> Mapping[str, float]:
    return {"CPU": plan.cpus_per_worker, **({"GPU": 1} if plan.use_gpu else {})}


def _root_cause(error: BaseException) -> BaseException:
    """An error of ours from inside a worker, if that is what ended the run."""
    failures: Sequence[BaseException] = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, AgentError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return error
