"""What a run does before a worker starts: data, encoder, cluster, plan. Touches no output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.data import Splits
from agent.encoding import Encoder
from cluster import WorkerPlan, connect, node_resources, plan_workers
from training.config import TrainingConfig
from training.data.ingest import TrainingData, encode_splits, open_data, streams
from training.data.packing import JoinedWindows
from training.data.unlabelled import open_unlabelled
from training.tracking.trackers import check_trackers


@dataclass(frozen=True)
class RunOverrides:
    """What a run is given by a command that makes several.

    Attributes:
        splits: Examples, instead of what `data` names.
        plan: Workers, instead of all that the cluster has.
        callbacks: Of Ray Train.
    """

    splits: Splits | None = None
    plan: WorkerPlan | None = None
    callbacks: Sequence[Any] = ()


ALONE = RunOverrides()


@dataclass(frozen=True)
class Ready:
    """What is known before a worker starts.

    Attributes:
        other_digests: Of what is read beside the data, by the key that names it; the files may be gone before the run ends.
    """

    config: TrainingConfig
    data: TrainingData
    tokenizer: Any
    encoder: Encoder
    plan: WorkerPlan
    callbacks: Sequence[Any] = ()
    other_digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def teacher_digest(self) -> str | None:
        """Of the teacher's bundle, if there is one."""
        return self.other_digests.get("teacher.bundle")


def get_ready(config: TrainingConfig, company: RunOverrides = ALONE) -> Ready:
    """Reads and encodes the data, connects to Ray, plans the workers. Touches no output.

    Raises:
        AgentError: Configuration, data, model or cluster are not in order.
    """
    check_trackers(config.tracking)
    connected = company.splits is None and streams(config.data, config.ingest)
    if connected:
        connect_to_ray(config)
    data, tokenizer, encoder = _prepare(config, company.splits)
    data, digests = _hear_teacher(config, data, encoder)
    if not connected:
        connect_to_ray(config)
    plan = company.plan or plan_workers(config.num_workers, node_resources())
    return Ready(config, data, tokenizer, encoder, plan, company.callbacks, digests)


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
    from training.model.models import load_tokenizer, make_encoder

    made: list[tuple[Any, Encoder]] = []

    def encoder() -> Encoder:  # made after the data was looked at, whose errors are the common ones
        tokenizer = load_tokenizer(config.model.name)
        made.append((tokenizer, make_encoder(tokenizer, config.model)))
        return made[0][1]

    if splits:
        data = encode_splits(splits, encoder(), config.ingest, config.segmentation)
    else:
        data = open_data(
            config.data, config.task, ingest=config.ingest, segmentation=config.segmentation, seed=config.seed,
            make_encoder=encoder,
        )  # fmt: skip
    _say_data(config, data)
    tokenizer, made_encoder = made[0]
    return data, tokenizer, made_encoder.with_segmentation(data.segmentation)


def _hear_teacher(config: TrainingConfig, data: TrainingData, encoder: Encoder) -> tuple[TrainingData, dict[str, str]]:
    """The data with text that only the teacher says something about, and digests of what is read for it."""
    teacher = config.teacher
    if not teacher:
        return data, {}
    digests = {"teacher.bundle": teacher.check(data.task, encoder, config.model.name)}
    if not teacher.unlabelled:
        return data, digests
    found = open_unlabelled(teacher.unlabelled, data.task, encoder, config.ingest)
    print(f"unlabelled: {teacher.unlabelled} ({found.note})", flush=True)
    joined = JoinedWindows(data.train, found.windows)
    return replace(data, train=joined), digests | {"teacher.unlabelled": found.digest}


def _say_data(config: TrainingConfig, data: TrainingData) -> None:
    for note in data.notes:
        print(f"note: {note}")
    print(
        f"data: {config.data.path} ({count_examples(data)} examples; labels {', '.join(data.task.labels)})", flush=True
    )


def count_examples(data: TrainingData) -> str:
    """The sizes of all splits, for people."""
    sizes = {"train": data.num_train, "dev": len(data.dev), "test": len(data.test)}
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
