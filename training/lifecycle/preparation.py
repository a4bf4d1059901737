"""Prepares a run before its workers start: reads and encodes the data, connects to Ray, plans the workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agent.data import Splits
from agent.encoding import Encoder
from agent.errors import DataError
from agent.generation.ctranslate2_conversion import check_convertible
from agent.tasks import SequenceToSequence
from cluster import WorkerPlan, connect, node_resources, plan_workers
from training.config import TrainingConfig
from training.data.ingest import TrainingData, encode_splits, open_data, streams
from training.data.packing import JoinedWindows
from training.data.unlabelled import open_unlabelled
from training.lifecycle.step_budget import fill_in_auto
from training.objectives import BaseObjective
from training.tracking.trackers import check_trackers


@dataclass(frozen=True)
class RunOverrides:
    """What a command that makes several runs sets for each.

    Attributes:
        splits: Examples, instead of what `data` names.
        plan: Workers, instead of all that the cluster has.
        callbacks: Of Ray Train.
        worker_lines: Whether the terminal shows what workers print, if this process is not connected to Ray yet.
    """

    splits: Splits | None = None
    plan: WorkerPlan | None = None
    callbacks: Sequence[Any] = ()
    worker_lines: bool = True


NO_OVERRIDES = RunOverrides()


@dataclass(frozen=True)
class PreparedRun:
    """A run whose workers can start.

    Attributes:
        config: Without `auto`: what depends on the size of the data is filled in.
        other_digests: Of what is read beside the data, by its key; the files may be gone before the run ends.

    Raises:
        ValueError: The configuration has an `auto` that workers could not read.
    """

    config: TrainingConfig
    data: TrainingData
    tokenizer: Any
    encoder: Encoder
    plan: WorkerPlan
    callbacks: Sequence[Any] = ()
    other_digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.config.auto_keys:
            raise ValueError(f"auto was not filled in: {', '.join(self.config.auto_keys)}")

    @property
    def teacher_digest(self) -> str | None:
        """Digest of the teacher's bundle, if there is one."""
        return self.other_digests.get("teacher.bundle")


def prepare_run(config: TrainingConfig, overrides: RunOverrides = NO_OVERRIDES) -> PreparedRun:
    """Reads and encodes the data, connects to Ray, plans the workers. Writes nothing to the output.

    Raises:
        AgentError: Configuration, data, model or cluster are not in order.
    """
    from training.model.models import load_config

    check_trackers(config.tracking)
    connected = overrides.splits is None and streams(config.data, config.ingest, config.task.kind)
    if connected:
        connect_to_ray(config, worker_lines=overrides.worker_lines)
    data, tokenizer, encoder = _read_data(config, overrides.splits)
    _check_rewards(config.objective, data)
    data, digests = _add_teacher_data(config, data, encoder)
    if not connected:
        connect_to_ray(config, worker_lines=overrides.worker_lines)
    plan = overrides.plan or plan_workers(config.num_workers, node_resources())
    config, chosen = fill_in_auto(config, data.train.lengths, load_config(config.model.name).hidden_size)
    if chosen:
        print(chosen, flush=True)
    return PreparedRun(config, data, tokenizer, encoder, plan, overrides.callbacks, digests)


def connect_to_ray(config: TrainingConfig, *, worker_lines: bool = True) -> None:
    """Connects this process to the run's cluster.

    CPU threads of workers sleep soon while they wait, unless the user chose otherwise. By default they spin for milliseconds, and a
    step takes three times as long when anything else (Ray's own processes, a second worker) runs on one of their cores
    (docs/benchmarks.md).

    Raises:
        ClusterError: It cannot be reached.
    """
    env_vars = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}
    connect(config.cluster, env_vars=env_vars, worker_lines=worker_lines)


def _read_data(config: TrainingConfig, splits: Splits | None) -> tuple[TrainingData, Any, Encoder]:
    from training.model.models import load_config, load_tokenizer, make_encoder
    from training.model.writing_models import check_end, check_writer

    made: list[tuple[Any, Encoder]] = []

    def encoder() -> Encoder:  # made after the data was opened, whose errors are the common ones
        if config.task.writes:
            found = load_config(config.model.name)
            check_writer(found, config.task, config.model.name)
            if isinstance(config.task, SequenceToSequence) and config.task.generated_texts:
                check_convertible(found.to_dict(), f"model.name={config.model.name!r}")
        tokenizer = load_tokenizer(config.model.name)
        if config.task.writes:
            check_end(load_config(config.model.name), tokenizer, config.model.name)
        made.append((tokenizer, make_encoder(tokenizer, config.model)))
        return made[0][1]

    if splits:
        data = encode_splits(splits, encoder(), config.ingest, config.segmentation)
    else:
        data = open_data(
            config.data, config.task, ingest=config.ingest, segmentation=config.segmentation, seed=config.seed,
            make_encoder=encoder,
        )  # fmt: skip
    for note in data.notes:
        print(f"note: {note}")
    print(
        f"data: {config.data.path} ({count_examples(data)} examples; labels {', '.join(data.task.labels)})", flush=True
    )
    tokenizer, made_encoder = made[0]
    return data, tokenizer, made_encoder.with_segmentation(data.segmentation)


def _check_rewards(objective: BaseObjective, data: TrainingData) -> None:
    """Refuses logged decisions that would be taken for labels, and an objective that is left without any.

    Raises:
        DataError: Train is not what the objective learns from.
    """
    num_logged = len(np.unique(data.train.owners[~np.isnan(data.train.logged[:, 0])]))
    if num_logged and not objective.learns_from_rewards:
        raise DataError(
            f"{num_logged:,} of {data.num_train:,} records in train are logged decisions with rewards, and "
            f"objective.kind={objective.kind} would take each answer for the right label",
            allowed="labelled records alone, or objective.kind=reward_likelihood or policy_gradient",
            remedy="choose objective.kind=reward_likelihood, or leave the records with a propensity out",
        )
    if objective.learns_from_rewards and not num_logged:
        raise DataError(
            f"no record in train has a reward, and objective.kind={objective.kind} learns from rewards",
            allowed='records {"text", "label", "propensity", "reward"}, labelled ones beside them',
            remedy="add what `python -m agent.decisions output=DIR/train-log.jsonl content=rewards` writes, or choose another objective",
        )


def _add_teacher_data(
    config: TrainingConfig, data: TrainingData, encoder: Encoder
) -> tuple[TrainingData, dict[str, str]]:
    """The data with the teacher's unlabelled text, and digests of what is read for the teacher."""
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


def count_examples(data: TrainingData) -> str:
    """The sizes of all splits, for people."""
    sizes = {"train": data.num_train, "dev": len(data.dev), "test": len(data.test)}
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())
