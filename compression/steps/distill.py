"""Distillation: the network as it is now learns from the agent that it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import ClassVar, Literal

from pydantic import Field

from compression.state import State
from compression.steps.base import BaseStep


class DistillStep(BaseStep):
    """Trains the student on the agent's own data, with the agent as its teacher, by Ray Train and DeepSpeed."""

    place: ClassVar[int] = 6
    restores: ClassVar[bool] = True
    kind: Literal["distill"] = "distill"
    epochs: int = Field(3, ge=1, description="passes over the training split")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate (AdamW)")
    batch_tokens: int = Field(1024, ge=16, description="tokens of an optimizer step, as batch.tokens of training")
    temperature: float = Field(2.0, gt=0, description="divides logits of both: above 1 what is improbable counts more")
    teacher_weight: float = Field(
        0.8, gt=0, le=1, description="part of the loss that the teacher has; labels have the rest"
    )
    num_workers: int | None = Field(None, ge=1, description="data-parallel workers; default: as in training")

    def run(self, state: State) -> None:
        """Writes the student, has it trained, takes up what came of it.

        Raises:
            TrainingError: Training failed; the same command goes on from its last checkpoint.
        """
        from compression.retraining import retrain
        from compression.torch_model import load_directory, save_model

        bundle = state.bundle
        directory = state.workshop / f"distill-{self._digest(state)}"
        student = directory / "student"
        save_model(state.model, student)
        for file in state.directory.iterdir():  # the tokenizer; nothing else is there yet
            shutil.copy(file, student)
        settings = {
            "epochs": self.epochs,
            "num_workers": self.num_workers,
            "seed": state.seed,
            "task": bundle.task.model_dump(mode="json"),
            "data": state.data.model_dump(mode="json"),
            "model": {
                "name": str(student),
                "max_tokens": bundle.manifest.max_tokens,
                "stride": bundle.manifest.stride,
            },
            "batch": {"tokens": self.batch_tokens},
            "optimizer": {"kind": "adamw", "learning_rate": self.learning_rate},
            "teacher": {
                "bundle": str(bundle.path),
                "temperature": self.temperature,
                "weight": self.teacher_weight,
            },
        }
        trained = retrain(settings, directory)
        state.model = load_directory(trained, bundle.task.architecture)
        state.changed = True
        state.note(
            f"distill: {self.epochs} epochs at learning rate {self.learning_rate:g}, temperature {self.temperature:g}, "
            f"teacher's weight {self.teacher_weight:g}"
        )

    def _digest(self, state: State) -> str:
        """Tells students apart: other steps before, another agent or other data make another one."""
        before = [step.model_dump(mode="json") for step in state.steps if step.place <= self.place]
        known = [before, state.seed, state.bundle.digest, state.splits.digest]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
