"""The contestant ours: the function behind `python training/run.py`, with Ray, DeepSpeed, evaluation and bundle."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agent.data import DataConfig
from agent.tasks import Task, TokenClassification
from benchmarks.trainer_comparison.base import MODEL, SEED, WARMUP, WEIGHT_DECAY, Contestant


class Ours(Contestant):
    """One worker or several, which share the threads."""

    kind: Literal["ours"] = "ours"
    workers: int = 1
    tokens: int = 1024
    learning_rate: float = 2e-4
    epochs: int = 1
    seed: int = SEED
    task: Task = TokenClassification()
    niceness: int | None = Field(None, description="of Ray's workers; by default Ray's own, 15, behind all neighbours")
    output: str = Field("", description="where the bundle is kept; by default it is not")

    @property
    def name(self) -> str:
        """By tokens, workers and threads."""
        return f"ours, {self.tokens:,} tokens, {self.workers} worker(s) of {self.threads // self.workers} thread(s)"

    def environment(self) -> dict[str, str]:
        """As a user's, who sets nothing, but for the niceness."""
        return {} if self.niceness is None else {"RAY_worker_niceness": str(self.niceness)}

    def measure(self, data: DataConfig) -> dict[str, Any]:
        """Trains. Points of the curve are the ends of epochs, by the seconds that steps took, as they are in a bundle's metrics."""
        from cluster import ClusterConfig
        from training.config import TrainingConfig
        from training.data.batch_plan import BatchConfig
        from training.engine.lr_schedule import Schedule
        from training.lifecycle.job import train
        from training.model.models import ModelConfig
        from training.optimizers import AdamW
        from training.tracking.metrics_log import step_rows

        with tempfile.TemporaryDirectory(prefix="training_throughput.") as directory:
            config = TrainingConfig(
                output=self.output or str(Path(directory) / "agent"),
                overwrite=True,
                resume=False,
                task=self.task,
                data=data,
                model=ModelConfig(name=MODEL),
                epochs=self.epochs,
                seed=self.seed,
                num_workers=self.workers,
                batch=BatchConfig(tokens=self.tokens),
                optimizer=AdamW(learning_rate=self.learning_rate, weight_decay=WEIGHT_DECAY),
                schedule=Schedule(warmup_fraction=WARMUP),
                cluster=ClusterConfig(address="local", num_cpus=self.threads, num_gpus=0, dashboard=False),
            )
            outcome = train(config).outcome
        assert outcome, "a fresh output holds no finished run"
        columns = ("seconds", "sentences", "tokens", "padded_tokens")
        clock = itertools.accumulate(row["seconds"] for row in outcome.history)
        return {
            "steps": [tuple(row[name] for name in columns) for row in step_rows(outcome.metrics_log)],
            "precision": "bf16" if "bf16" in outcome.description else "fp32",
            "points": [(seconds, row["dev_score"]) for seconds, row in zip(clock, outcome.history, strict=True)],
            "test_f1": outcome.after.value,
            "test_metrics": dict(outcome.after.metrics),
            "save_share": outcome.history[-1]["save_share"],
            "description": outcome.description,
        }
