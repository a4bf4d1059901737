"""A training run as a whole: data, cluster, workers, bundle. Runs on the driver and computes nothing itself."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from agent.bundle import Bundle, Evaluation, Manifest, lineage_now, write_bundle
from agent.config import Config
from agent.data import DataConfig, Splits
from agent.data.splits import DEMO
from agent.encoding import Encoder
from agent.errors import AgentError
from agent.tasks import Task, TokenClassification
from cluster import ClusterConfig, WorkerPlan, connect, node_resources, plan_workers
from training.checkpoint import BEST, CheckpointConfig
from training.engine import EngineConfig
from training.ingest import IngestConfig, TrainingData, encode_splits, open_data, streams
from training.learning_rate import Schedule
from training.models import MINILM, ModelConfig
from training.objectives import CrossEntropy, Objective
from training.optimizers import AdamW, Optimizer
from training.payload import Outcome, Payload, evaluation_set
from training.resume import begin, checkpoint_store, finished
from training.schedule import BatchConfig
from training.store import Store
from training.trackers import TrackingConfig, check_trackers


class EarlyStopping(Config):
    """When to stop before the last epoch."""

    patience: int | None = Field(
        None, ge=1, description="epochs without a better score on dev after which training ends; default: never"
    )
    min_delta: float = Field(0.0, ge=0, description="by how much a score must be better to count as better")


class TrainingConfig(Config):
    """A fine-tuning run."""

    output: str = Field("runs/agent", description="directory of the bundle to write")
    overwrite: bool = Field(False, description="replace a bundle that stands at output")
    resume: bool = Field(True, description="go on with an unfinished run of the same output; false starts afresh")
    epochs: int = Field(3, ge=1, description="passes over the training split")
    num_workers: int | None = Field(
        None, ge=1, description="data-parallel workers; default: one per GPU, or one CPU worker"
    )
    num_workers_min: int | None = Field(
        None, ge=1, description="go on with as few as these when nodes are lost; default: wait for num_workers"
    )
    max_failures: int = Field(3, ge=0, description="how often to go on from the last checkpoint after a worker died")
    resize_check_s: float = Field(60.0, gt=0, description="seconds between looks for nodes that came back")
    seed: int = Field(0, ge=0, description="of the new head, the shuffling and dropout")
    task: Task = Field(
        TokenClassification(),
        description="what the agent does",
    )
    data: DataConfig = DataConfig()
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Schedule()
    objective: Objective = CrossEntropy()
    early_stopping: EarlyStopping = EarlyStopping()
    engine: EngineConfig = EngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.num_workers_min and (self.num_workers is None or self.num_workers_min > self.num_workers):
            raise ValueError("num_workers_min needs num_workers, and is at most as many")
        return self


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `outcome` is None if an earlier command had finished it."""

    bundle: Bundle
    outcome: Outcome | None


@dataclass(frozen=True)
class Company:
    """What a run is given by a command that makes several.

    Attributes:
        splits: Examples, instead of what `data` names.
        plan: Workers, instead of all that the cluster has.
        callbacks: Of Ray Train.
    """

    splits: Splits | None = None
    plan: WorkerPlan | None = None
    callbacks: Sequence[Any] = ()


ALONE = Company()


def train(config: TrainingConfig, company: Company = ALONE) -> TrainingResult:
    """Fine-tunes an agent and writes its bundle. Goes on with what an earlier, interrupted call has left at the same output.

    Raises:
        AgentError: Configuration, data, model, cluster or output are not in order, or training cannot go on. Nothing is lost.
    """
    config, output = absolute(config), output_of(config)
    if done := finished(config, output):
        checkpoint_store(config, output).clear()  # a command killed right after it had published leaves them
        return TrainingResult(done, None)
    ready = get_ready(config, company)
    run = begin(config, output, ready.data.digest)
    print(f"plan: {ready.plan}{'; goes on with an unfinished run' if run.resumes else ''}", flush=True)
    return carry_out(ready, run.store)


def absolute(config: TrainingConfig) -> TrainingConfig:
    """Local data and models by paths that workers, and later stations, find from any directory."""
    changes: dict[str, Config] = {}
    if config.data.path != DEMO and (data := Path(config.data.path).expanduser()).is_dir():
        changes["data"] = config.data.model_copy(update={"path": str(data.resolve())})
    if config.model.name != MINILM and (model := Path(config.model.name).expanduser()).is_dir():
        changes["model"] = config.model.model_copy(update={"name": str(model.resolve())})
    return config.model_copy(update=changes)


def output_of(config: TrainingConfig) -> Path:
    """Where the bundle of a run goes."""
    return Path(config.output).expanduser().absolute()


@dataclass(frozen=True)
class Ready:
    """What is known before a worker starts."""

    config: TrainingConfig
    data: TrainingData
    tokenizer: Any
    encoder: Encoder
    plan: WorkerPlan
    callbacks: Sequence[Any] = ()


def get_ready(config: TrainingConfig, company: Company = ALONE) -> Ready:
    """Reads and encodes the data, connects to Ray, plans the workers. Touches no output.

    Raises:
        AgentError: Configuration, data, model or cluster are not in order.
    """
    check_trackers(config.tracking)
    connected = company.splits is None and streams(config.data, config.ingest)
    if connected:
        connect_to_ray(config)
    data, tokenizer, encoder = _prepare(config, company.splits)
    if not connected:
        connect_to_ray(config)
    plan = company.plan or plan_workers(config.num_workers, node_resources())
    return Ready(config, data, tokenizer, encoder, plan, company.callbacks)


def carry_out(ready: Ready, store: Store) -> TrainingResult:
    """Trains, from the newest checkpoint in the store on, writes the bundle and clears the store.

    Raises:
        AgentError: Training cannot go on, or its outcome cannot be written.
    """
    output = output_of(ready.config)
    outcome = _fit(ready, store)
    with write_bundle(output, overwrite=ready.config.overwrite) as draft:
        with store.fetch(store.names(BEST)[-1]) as weights:
            shutil.copytree(weights, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("complete.json"))
        ready.tokenizer.save_pretrained(draft.path)
        _write_report(draft.path, ready, outcome)
        draft.publish(_manifest(ready, outcome))
    store.clear()
    return TrainingResult(Bundle.load(output), outcome)


def connect_to_ray(config: TrainingConfig) -> None:
    """Connects this process to the cluster that runs are to use.

    Raises:
        ClusterError: It cannot be reached.
    """
    connect(config.cluster, env_vars=_worker_environment())


def _worker_environment() -> dict[str, str]:
    """CPU threads that soon sleep while they wait. By default they spin for milliseconds, and a step takes three times as
    long as soon as anything else (Ray's own processes, a second worker) takes a core from one of them; measured in
    docs/training.md. The user's own choice stays.
    """
    return {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}


def _prepare(config: TrainingConfig, splits: Splits | None) -> tuple[TrainingData, Any, Encoder]:
    from training.models import load_tokenizer, make_encoder

    made: list[tuple[Any, Encoder]] = []

    def encoder() -> Encoder:  # made after the data was looked at, whose errors are the common ones
        tokenizer = load_tokenizer(config.model.name)
        made.append((tokenizer, make_encoder(tokenizer, config.model)))
        return made[0][1]

    if splits:
        data = encode_splits(splits, encoder(), config.ingest)
    else:
        data = open_data(config.data, config.task, ingest=config.ingest, seed=config.seed, make_encoder=encoder)
    _say_data(config, data)
    return data, *made[0]


def _fit(ready: Ready, store: Store) -> Outcome:
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from training.board import Board
    from training.worker import train_worker

    config, plan = ready.config, ready.plan
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker is printed twice
    elastic = (config.num_workers_min, plan.num_workers) if config.num_workers_min else plan.num_workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "payload": ray.put(_payload(ready, store)),
            "board": Board(config.batch.micro_tokens),
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


def _payload(ready: Ready, store: Store) -> Payload:
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


def _write_report(directory: Path, ready: Ready, outcome: Outcome) -> None:
    from training.report import write_report

    config = ready.config
    write_report(
        directory,
        task=ready.data.task,
        outcome=outcome,
        test=ready.data.test,
        model=config.model.name,
        data=f"{config.data.path} ({_counts(ready.data)})",
        seed=config.seed,
        settings={
            "epochs": str(config.epochs),
            "optimizer": f"{config.optimizer.kind}, learning rate {config.optimizer.learning_rate:g}, {config.schedule.kind}",
            "batch": f"{config.batch.tokens:,} tokens",
            "objective": config.objective.kind,
            "data sha256": ready.data.digest,
        },
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


def _manifest(ready: Ready, outcome: Outcome) -> Manifest:
    data, config = ready.data, ready.config
    reports = {"test": outcome.after, "dev": outcome.dev}
    return Manifest(
        task=data.task,
        max_tokens=ready.encoder.max_tokens,
        stride=ready.encoder.stride,
        lineage=lineage_now(
            base_model=config.model.name,
            data_digest=data.digest,
            config=config.model_dump(mode="json"),
        ),
        evaluations=tuple(
            Evaluation(split=name, data_digest=data.digest, model="model.safetensors", report=report)
            for name, report in reports.items()
        ),
    )


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


def _say_data(config: TrainingConfig, data: TrainingData) -> None:
    for note in data.notes:
        print(f"note: {note}")
    print(f"data: {config.data.path} ({_counts(data)} examples; labels {', '.join(data.task.labels)})", flush=True)


def _counts(data: TrainingData) -> str:
    sizes = {"train": data.num_train, "dev": len(data.dev), "test": len(data.test)}
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
