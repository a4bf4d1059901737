"""What the agent that is compressed teaches the network that is made of it: one description for every step that has it trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from agent.config.base import Config
from compression.pipeline.pipeline_state import State

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_LAYERS = "shrink.layers"  # what the state remembers: numbers of the layers that stayed, from 0


class Teaching(Config):
    """How a student is trained, on the agent's own data, with the agent as its teacher, by Ray Train and DeepSpeed."""

    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate (AdamW)")
    batch_tokens: int = Field(1024, ge=16, description="tokens of an optimizer step, as batch.tokens of training")
    temperature: float = Field(2.0, gt=0, description="divides logits of both: above 1 what is improbable counts more")
    teacher_weight: float = Field(
        0.8, gt=0, le=1, description="part of the loss that the teacher has; labels have the rest"
    )
    hidden_weight: float = Field(
        0.0, ge=0, description="what the difference of hidden states counts, as teacher.hidden.weight of training"
    )
    relations_weight: float = Field(
        0.0,
        ge=0,
        description="what the divergence of attention relations counts, as teacher.relations.weight of training",
    )
    relations_layer: PositiveInt | None = Field(
        None, description="the teacher's layer whose relations are learned, from 1; default: its last"
    )
    relation_heads: PositiveInt | None = Field(
        None, description="parts that queries, keys and values are cut into; default: the student's attention heads"
    )
    unlabelled: str | None = Field(
        None,
        description="text without labels (.txt, .jsonl, or a directory of them) that the teacher is asked about too",
    )
    num_workers: int | None = Field(None, ge=1, description="data-parallel workers; default: as in training")

    def teach(self, state: State, *, epochs: int, directory: Path, keep_zeros: bool = False) -> PreTrainedModel:
        """Writes the network of a state as a student, has it trained, returns what came of it.

        Args:
            state: Whose original is the teacher. It is left as it is.
            epochs: Passes over the training split.
            directory: Where an interrupted training goes on; one for each student.
            keep_zeros: Whether what is zero stays zero.

        Raises:
            TrainingError: Training failed; the same command goes on from its last checkpoint.
        """
        from compression.distillation.retraining import retrain
        from compression.encoder.torch_model import load_directory, save_model

        student = directory / "student"
        save_model(state.model, student)
        for file in state.directory.iterdir():  # the tokenizer; nothing else is there yet
            shutil.copy(file, student)
        trained = retrain(self._settings(state, student, epochs=epochs, keep_zeros=keep_zeros), directory)
        return load_directory(trained, state.bundle.task.architecture)

    def _settings(self, state: State, student: Path, *, epochs: int, keep_zeros: bool) -> dict[str, Any]:
        manifest = state.bundle.manifest
        kept = state.remembered.get(KEPT_LAYERS, [])
        return {
            "epochs": epochs,
            "num_workers": self.num_workers,
            "seed": state.seed,
            "task": state.bundle.task.model_dump(mode="json"),
            "data": state.data.model_dump(mode="json"),
            "segmentation": manifest.segmentation.model_dump(mode="json"),
            "model": {
                "name": str(student),
                "max_tokens": manifest.max_tokens,
                "stride": manifest.stride,
                "keep_zeros": keep_zeros,
            },
            "batch": {"tokens": self.batch_tokens},
            "optimizer": {"kind": "adamw", "learning_rate": self.learning_rate},
            "teacher": {
                "bundle": str(state.bundle.path),
                "temperature": self.temperature,
                "weight": self.teacher_weight,
                # A layer that stayed learns from the one that it was.
                "hidden": {"weight": self.hidden_weight, "layers": [number + 1 for number in kept]},
                "relations": {
                    "weight": self.relations_weight,
                    "layer": self.relations_layer,
                    "heads": self.relation_heads,
                },
                "unlabelled": self.unlabelled and str(Path(self.unlabelled).expanduser().absolute()),
            },
        }

    @property
    def summary(self) -> str:
        """In a few words, for a report."""
        more = {"hidden states": self.hidden_weight, "relations": self.relations_weight}
        said = [f"learning rate {self.learning_rate:g}, temperature {self.temperature:g}"]
        said.append(f"teacher's weight {self.teacher_weight:g}")
        said += [f"{name} {weight:g}" for name, weight in more.items() if weight]
        return ", ".join([*said, *([f"with the text of {self.unlabelled}"] if self.unlabelled else [])])


def lesson_key(state: State, place: int) -> str:
    """Tells students apart: other steps up to a place, another agent or other data make another one."""
    before = [step.model_dump(mode="json") for step in state.steps if step.place <= place]
    known = [before, state.seed, state.bundle.digest, state.splits.digest]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
