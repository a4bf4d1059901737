"""The contestant trainer: the settings of Hugging Face's Trainer, which trainer_process.py runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agent.data import DataConfig
from agent.tasks import Task, TokenClassification
from benchmarks.trainer_comparison.base import SEED, Contestant


class Trainer(Contestant):
    """Dynamic padding, batches by length, fused AdamW, bf16 wherever ours takes it."""

    kind: Literal["trainer"] = "trainer"
    batch: int
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="sdpa is what transformers chooses")
    loaders: int = Field(0, description="processes that collate; 0: the one that trains")
    learning_rate: float = 5e-5
    epochs: int = 1
    seed: int = SEED
    task: Task = TokenClassification()
    sentences: int | None = Field(None, description="stop after so many; the batches are those of whole epochs")
    looks_per_epoch: int = Field(
        0, description="evaluations on dev, which its clock leaves out; 0: test is not looked at either"
    )

    @property
    def name(self) -> str:
        """Names its settings."""
        waits = ", brief waits" if self.waiting == "briefly" else ""
        loaders = f", {self.loaders} loader" if self.loaders else ""
        return f"Trainer, batch {self.batch}, {self.attention}{waits}{loaders}"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that trials choose."""
        return self.model_dump(include={"waiting", "attention", "loaders"})

    def measure(self, data: DataConfig) -> dict[str, Any]:
        """Trains."""
        from benchmarks.trainer_comparison.trainer_process import fine_tune

        return fine_tune(self, data)
