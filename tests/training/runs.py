"""Training runs of tests: one builder of configurations, and runs in the test's own process where workers are not the point."""

from __future__ import annotations

import atexit
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.config.base import Config, from_mapping
from cluster import WorkerPlan, plan_workers
from tests.training.processes import launch
from training.config import TrainingConfig, output_of
from training.lifecycle import preparation
from training.lifecycle.job import TrainingResult, _fit, train
from training.lifecycle.resume import checkpoint_store
from training.loop.worker_io import TrainingOutcome

ConfigT = TypeVar("ConfigT", bound=Config)
_MERGED = ("batch", "engine", "model")


def tree(places: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A run on the toy data of `places`: `changes` replace top-level keys, and are merged into batch, engine and model."""
    base: dict[str, Any] = {
        "output": str(places / name), "epochs": 2, "data": {"path": str(places / "ner")},
        "model": {"name": str(places / "model"), "dropout": 0.0, "stride": 8}, "batch": {"tokens": 128},
        "optimizer": {"kind": "adamw", "learning_rate": 0.005}, "engine": {"precision": "fp32"},
    }  # fmt: skip
    return base | {key: base[key] | value if key in _MERGED else value for key, value in changes.items()}


def settings(places: Path, name: str, **changes: Any) -> TrainingConfig:
    return settings_of(TrainingConfig, places, name, **changes)


def settings_of(kind: type[ConfigT], places: Path, name: str, **changes: Any) -> ConfigT:
    """The same for a command that makes several runs."""
    return from_mapping(kind, tree(places, name, **changes))


@contextmanager
def in_this_process() -> Iterator[None]:
    """Runs of one worker train here, by Ray Train's local mode: no processes, whose imports take most of a tiny run's time.

    The process group stays for the next run, since DeepSpeed keeps what it finds the first time.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(dist.destroy_process_group)
    level = logging.getLogger().level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "destroy_process_group", lambda: None)  # Ray Train's last act
        patch.setattr(preparation, "plan_workers", _no_processes)
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            patch.setenv(name, value)
        yield
    logging.getLogger().setLevel(level)


def _no_processes(num_workers: int | None, nodes: Sequence[Mapping[str, float]]) -> WorkerPlan:
    assert num_workers in (None, int(os.environ["WORLD_SIZE"]))
    return replace(plan_workers(num_workers, nodes), num_workers=0)


def train_here(config: TrainingConfig) -> TrainingResult:
    with in_this_process():
        return train(config)


def train_by_ranks(config: TrainingConfig) -> TrainingOutcome:
    """What training by several workers comes to, without a bundle: by Ray Train's local mode, as under torchrun, in processes that `launch` forks."""
    file = output_of(config).with_suffix(".outcome")
    launch(config.num_workers or 1, _train_rank, config, file)
    outcome: TrainingOutcome = pickle.loads(file.read_bytes())
    return outcome


def _train_rank(config: TrainingConfig, file: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "plan_workers", _no_processes)
        prepared = preparation.prepare_run(config)
        outcome = _fit(prepared, checkpoint_store(config, output_of(config)))
    if int(os.environ["RANK"]) == 0:
        file.write_bytes(pickle.dumps(outcome))
