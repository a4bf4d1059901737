"""Trains the current network of a compression as the student of the original agent."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from agent.config.base import Config
from compression.state.pipeline_state import PipelineState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_LAYERS = "shrink.layers"  # key in `step_outputs`: numbers of the layers that step shrink kept, from 0


class StudentTraining(Config):
    """How a student is trained on the agent's data, with the agent as its teacher, by Ray Train and DeepSpeed."""

    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="peak learning rate (AdamW): a number, or auto as optimizer.learning_rate of training"
    )
    batch_tokens: int = Field(1024, ge=16, description="tokens of an optimizer step, as batch.tokens of training")
    temperature: float = Field(2.0, gt=0, description="divides logits of both: above 1 what is improbable counts more")
    teacher_weight: float = Field(
        0.8, gt=0, le=1, description="part of the loss that the teacher has; labels have the rest"
    )
    hidden_weight: float = Field(
        0.0, ge=0, description="what the difference of hidden states counts, as teacher.hidden.weight of training"
    )
    relations_weight: float = Field(
        0.0, ge=0,
        description="what the divergence of attention relations counts, as teacher.relations.weight of training",
    )  # fmt: skip
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

    def train_student(
        self, state: PipelineState, *, epochs: int, directory: Path, keep_zeros: bool = False
    ) -> PreTrainedModel:
        """Trains the network of a state, whose original is the teacher, and returns the result; the state does not change.

        Args:
            state: Holds student, teacher and data.
            epochs: Passes over the training split.
            directory: What an interrupted training resumes from; one for each student.
            keep_zeros: Whether zeros stay zero.

        Raises:
            TrainingError: Training failed; the same command resumes from its last checkpoint.
        """
        from compression.distillation.training_command import run_training
        from compression.encoder.torch_model import load_directory

        student = directory / "student"
        save_student(state, state.model, student)
        trained = run_training(self._settings(state, student, epochs=epochs, keep_zeros=keep_zeros), directory)
        return load_directory(trained, state.bundle.task.architecture)

    def _settings(self, state: PipelineState, student: Path, *, epochs: int, keep_zeros: bool) -> dict[str, Any]:
        manifest = state.bundle.manifest
        model = {"name": str(student), "max_tokens": manifest.max_tokens, "stride": manifest.stride}
        # A layer that was kept learns from the same layer of the teacher.
        layers = [number + 1 for number in state.step_outputs.get(KEPT_LAYERS, [])]
        teacher = {
            "bundle": str(state.bundle.path), "temperature": self.temperature, "weight": self.teacher_weight,
            "hidden": {"weight": self.hidden_weight, "layers": layers},
            "relations": {"weight": self.relations_weight, "layer": self.relations_layer, "heads": self.relation_heads},
            "unlabelled": self.unlabelled and str(Path(self.unlabelled).expanduser().absolute()),
        }  # fmt: skip
        return {
            "epochs": epochs, "num_workers": self.num_workers, "seed": state.seed,
            "task": state.bundle.task.model_dump(mode="json"), "data": state.data.model_dump(mode="json"),
            "segmentation": state.bundle.manifest.segmentation.model_dump(mode="json"),
            "model": model | {"keep_zeros": keep_zeros}, "batch": {"tokens": self.batch_tokens},
            "optimizer": {"kind": "adamw", "learning_rate": self.learning_rate}, "teacher": teacher,
            "objective": {"kind": "reward_likelihood" if any(one.logged for one in state.splits.train) else "cross_entropy"},
        }  # fmt: skip

    @property
    def summary(self) -> str:
        """A few words for a report."""
        more = {"hidden states": self.hidden_weight, "relations": self.relations_weight}
        parts = [f"learning rate {self.learning_rate}, temperature {self.temperature:g}"]
        parts.append(f"teacher's weight {self.teacher_weight:g}")
        parts += [f"{name} {weight:g}" for name, weight in more.items() if weight]
        return ", ".join([*parts, *([f"with the text of {self.unlabelled}"] if self.unlabelled else [])])


def save_student(state: PipelineState, model: PreTrainedModel, directory: Path) -> None:
    """Writes a network with the tokenizer of a state, as training takes it for `model.name`."""
    from compression.encoder.torch_model import save_model

    save_model(model, directory)
    for file in state.directory.iterdir():  # the tokenizer; nothing else is there yet
        shutil.copy(file, directory)


def student_key(state: PipelineState, position: int) -> str:
    """A key for a student, from the agent, its data, the seed and the steps up to a position."""
    before = [step.model_dump(mode="json") for step in state.steps if step.position <= position]
    known = [before, state.seed, state.bundle.digest, state.splits.digest]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
