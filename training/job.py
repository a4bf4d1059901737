"""A training run as a whole: data, cluster, workers, bundle. Runs on the driver and computes nothing itself."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.bundle import Bundle, Evaluation, Manifest, check_output, lineage_now, write_bundle
from agent.config import Config
from agent.data import DataConfig, Splits, load_splits
from agent.encoding import Encoder
from agent.errors import AgentError
from agent.tasks import Task, TokenClassification
from cluster import ClusterConfig, WorkerPlan, connect, plan_workers
from training.engine import EngineConfig
from training.models import ModelConfig
from training.objectives import CrossEntropy, Objective
from training.optimizers import AdamW
from training.schedule import BatchConfig
from training.worker import Outcome, Payload


class TrainingConfig(Config):
    """A fine-tuning run."""

    output: str = Field("runs/agent", description="directory of the bundle to write")
    overwrite: bool = Field(False, description="replace a bundle that stands at output")
    epochs: int = Field(3, ge=1, description="passes over the training split")
    num_workers: int | None = Field(
        None, ge=1, description="data-parallel workers; default: one per GPU, or one CPU worker"
    )
    seed: int = Field(0, ge=0, description="of the new head, the shuffling and dropout")
    task: Task = Field(
        TokenClassification(),
        description="what the agent does",
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: AdamW = AdamW()
    objective: Objective = CrossEntropy()
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()


@dataclass(frozen=True)
class TrainingResult:
    """A finished run."""

    bundle: Bundle
    outcome: Outcome


def train(config: TrainingConfig) -> TrainingResult:
    """Fine-tunes an agent and writes its bundle.

    Raises:
        AgentError: Configuration, data, model, cluster or output are not in order. Nothing is lost.
    """
    output = Path(config.output).expanduser().absolute()
    check_output(output, overwrite=config.overwrite)
    prepared = _prepare(config)
    plan = plan_workers(config.num_workers, connect(config.cluster, env_vars=_worker_environment()))
    print(f"plan: {plan}", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    storage = Path(tempfile.mkdtemp(prefix=f".{output.name}.run.", dir=output.parent))
    try:
        outcome, weights = _fit(prepared, plan, storage)
        with write_bundle(output, overwrite=config.overwrite) as draft:
            shutil.copytree(weights, draft.path, dirs_exist_ok=True)
            prepared.tokenizer.save_pretrained(draft.path)
            draft.publish(_manifest(prepared, outcome))
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return TrainingResult(Bundle.load(output), outcome)


def _worker_environment() -> dict[str, str]:
    """CPU threads that soon sleep while they wait. By default they spin for milliseconds, and a step takes three times as
    long as soon as anything else (Ray's own processes, a second worker) takes a core from one of them; measured in
    docs/training.md. The user's own choice stays.
    """
    return {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}


@dataclass(frozen=True)
class _Prepared:
    """What is known before a worker starts."""

    config: TrainingConfig
    splits: Splits
    tokenizer: Any
    encoder: Encoder


def _prepare(config: TrainingConfig) -> _Prepared:
    splits = load_splits(config.data, config.task, seed=config.seed)
    _say_data(config, splits)
    from training.models import load_tokenizer, make_encoder

    tokenizer = load_tokenizer(config.model.name)
    return _Prepared(config, splits, tokenizer, make_encoder(tokenizer, config.model))


def _fit(prepared: _Prepared, plan: WorkerPlan, storage: Path) -> tuple[Outcome, Path]:
    import ray
    from ray.train import CheckpointConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from training.worker import train_worker

    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker is printed twice
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"payload": ray.put(_payload(prepared))},
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=_resources(plan)
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        with _our_cluster_by_name():
            result = trainer.fit()
    except TrainingFailedError as error:
        raise _root_cause(error) from error
    outcome: Outcome = result.return_value
    return outcome, Path(result.checkpoint.path)


def _payload(prepared: _Prepared) -> Payload:
    from training.packing import pack
    from training.worker import evaluation_set

    splits, encoder = prepared.splits, prepared.encoder
    return Payload(
        prepared.config,
        splits.task,
        train=pack(splits.task, encoder, splits.train),
        dev=evaluation_set(splits.task, encoder, splits.dev),
        test=evaluation_set(splits.task, encoder, splits.test),
        pad_id=encoder.pad_id,
        interactive=sys.stderr.isatty(),
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


def _manifest(prepared: _Prepared, outcome: Outcome) -> Manifest:
    splits, config = prepared.splits, prepared.config
    reports = {"test": outcome.after, "dev": outcome.dev}
    return Manifest(
        task=splits.task,
        max_tokens=prepared.encoder.max_tokens,
        stride=prepared.encoder.stride,
        lineage=lineage_now(
            base_model=config.model.name,
            data_digest=splits.digest,
            config=_absolute(config).model_dump(mode="json"),
        ),
        evaluations=tuple(
            Evaluation(split=name, data_digest=splits.digest, model="model.safetensors", report=report)
            for name, report in reports.items()
        ),
    )


def _absolute(config: TrainingConfig) -> TrainingConfig:
    """Paths as later stations can find them from any directory."""
    directory = Path(config.data.path).expanduser()
    if not directory.is_dir():
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(directory.resolve())})})


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


def _say_data(config: TrainingConfig, splits: Splits) -> None:
    for note in splits.notes:
        print(f"note: {note}")
    counts = ", ".join(f"{name} {len(getattr(splits, name)):,}" for name in ("train", "dev", "test"))
    print(f"data: {config.data.path} ({counts} examples; labels {', '.join(splits.task.labels)})", flush=True)
