"""The configuration of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import Config
from agent.data import DataConfig
from agent.data.splits import DEMO
from agent.tasks import Task, TokenClassification
from cluster import ClusterConfig
from training.data.batch_plan import BatchConfig
from training.data.ingest import IngestConfig
from training.data.segmentation_choice import SegmentationConfig
from training.distillation.teacher import TeacherConfig
from training.engine.engine_config import TrainingEngineConfig
from training.engine.lr_schedule import Schedule
from training.model.models import MINILM, ModelConfig
from training.objectives import CrossEntropy, Objective
from training.optimizers import AdamW, Optimizer
from training.state.checkpoint import CheckpointConfig
from training.tracking.trackers import TrackingConfig


def _positive_or_auto(value: int | str | None) -> int | str | None:
    if isinstance(value, int) and value < 1:
        raise ValueError("should be 'auto' or greater than or equal to 1")
    return value


class EarlyStopping(Config):
    """When to stop before the last epoch."""

    patience: int | Literal["auto"] | None = Field(
        "auto",
        description="epochs without a better score on dev after which training ends: a number, null for never, or auto for a third of "
        "more than five epochs",
    )
    min_delta: float = Field(0.0, ge=0, description="by how much a score must be better to count as better")

    @field_validator("patience")
    @classmethod
    def _one_at_least(cls, patience: int | str | None) -> int | str | None:
        return _positive_or_auto(patience)


class TrainingConfig(Config):
    """A fine-tuning run."""

    output: str = Field("runs/agent", description="directory of the bundle to write")
    overwrite: bool = Field(False, description="replace a bundle that stands at output")
    resume: bool = Field(True, description="go on with an unfinished run of the same output; false starts afresh")
    epochs: int | Literal["auto"] = Field(
        "auto",
        description="passes over the training split: a number, or auto for 3 and, where data is scarce, enough for 300 steps",
    )
    num_workers: int | None = Field(
        None, ge=1, description="data-parallel workers; default: one per GPU, or one CPU worker"
    )
    num_workers_min: int | None = Field(
        None, ge=1, description="go on with as few as these when nodes are lost; default: wait for num_workers"
    )
    max_failures: int = Field(3, ge=0, description="how often to go on from the last checkpoint after a worker died")
    resize_check_s: float = Field(60.0, gt=0, description="seconds between looks for nodes that came back")
    seed: int = Field(0, ge=0, description="of the new head, the shuffling and dropout")
    task: Task = Field(TokenClassification(), description="what the agent does")
    data: DataConfig = DataConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Schedule()
    objective: Objective = CrossEntropy()
    teacher: TeacherConfig | None = Field(None, description="an agent to learn from beside the labels (distillation)")
    early_stopping: EarlyStopping = EarlyStopping()
    engine: TrainingEngineConfig = TrainingEngineConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("epochs")
    @classmethod
    def _one_at_least(cls, epochs: int | str | None) -> int | str | None:
        return _positive_or_auto(epochs)

    @property
    def auto_keys(self) -> tuple[str, ...]:
        """Keys that are `auto`, to be filled in by the size of the data and of the model."""
        values = {
            "epochs": self.epochs,
            "batch.tokens": self.batch.tokens,
            "early_stopping.patience": self.early_stopping.patience,
            "optimizer.learning_rate": self.optimizer.learning_rate,
        }
        return tuple(key for key, value in values.items() if value == "auto")

    @property
    def num_epochs(self) -> int:
        """Epochs of a run whose `auto` has been filled in."""
        assert self.epochs != "auto"
        return self.epochs

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.num_workers_min and (self.num_workers is None or self.num_workers_min > self.num_workers):
            raise ValueError("num_workers_min needs num_workers, and is at most as many")
        return self

    @model_validator(mode="after")
    def _objective_fits_the_task(self) -> Self:
        if reason := self.objective.refusal_of(self.task):
            raise ValueError(f"objective.kind={self.objective.kind}: {reason}")
        return self

    @model_validator(mode="after")
    def _models_that_write_are_trained_whole(self) -> Self:
        given = {
            "teacher": self.teacher is not None, "optimizer.layer_decay": self.optimizer.layer_decay < 1,
            "model.trainable": self.model.trainable != "all", "model.lora": self.model.lora is not None,
            "model.keep_zeros": self.model.keep_zeros,
        }  # fmt: skip
        if self.task.writes and (keys := [key for key, is_set in given.items() if is_set]):
            raise ValueError(
                f"{keys[0]} is for encoders, and the model of task.kind={self.task.kind} is trained whole: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _teacher_fits_the_engine(self) -> Self:
        if self.engine.compile and self.teacher and self.teacher.uses_activations:
            raise ValueError(
                "engine.compile=true hides the activations that teacher.hidden and teacher.relations record: leave it out"
            )
        return self


def absolute(config: TrainingConfig) -> TrainingConfig:
    """The same with absolute paths of local data and models, since workers have another working directory."""
    changes: dict[str, Config] = {"teacher": config.teacher.absolute()} if config.teacher else {}
    if config.data.path != DEMO and (data := Path(config.data.path).expanduser()).is_dir():
        changes["data"] = config.data.model_copy(update={"path": str(data.resolve())})
    if config.model.name != MINILM and (model := Path(config.model.name).expanduser()).is_dir():
        changes["model"] = config.model.model_copy(update={"name": str(model.resolve())})
    return config.model_copy(update=changes)


def output_of(config: TrainingConfig) -> Path:
    """Where the bundle of a run goes."""
    return Path(config.output).expanduser().absolute()
