"""The step distill_texts: trains a student with fewer decoder layers on the texts that the agent writes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from agent.errors import ConfigError
from agent.tasks import BaseTask, SequenceToSequence
from compression.distillation.student_training import save_student, student_key
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep


class DistillTextsStep(BaseStep):
    """Trains a student with fewer decoder layers on what the agent writes for its training texts (arXiv 1606.07947), by Ray Train and DeepSpeed."""

    position: ClassVar[int] = 8
    recovers_quality: ClassVar[bool] = True
    for_writers: ClassVar[bool | None] = True
    kind: Literal["distill_texts"] = "distill_texts"
    decoder_layers: int | None = Field(
        None,
        ge=1,
        description="layers of the student's decoder, taken from the agent's; default: half of them, rounded up",
    )
    num_beams: int | None = Field(
        None, ge=1, description="texts that the agent follows at once when it writes; default: task.num_beams"
    )
    epochs: int = Field(3, ge=1, description="passes over the training split")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="peak learning rate (AdamW): a number, or auto as optimizer.learning_rate of training"
    )
    batch_tokens: int = Field(1024, ge=16, description="tokens of an optimizer step, as batch.tokens of training")
    num_workers: int | None = Field(None, ge=1, description="data-parallel workers; default: as in training")

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses agents without an encoder beside the decoder.

        Raises:
            ConfigError: The task is such a one.
        """
        super().check_task(task)
        if not isinstance(task, SequenceToSequence):
            raise ConfigError(
                f"step distill_texts is for agents of sequence_to_sequence, and this is one of {task.kind}",
                allowed="convert, verify",
                remedy="leave the step out; train a smaller model.name instead",
            )

    def run(self, state: PipelineState) -> None:
        """Lets the agent write, trains the student and puts it in the place of the network.

        Raises:
            ConfigError: The agent has fewer layers than are to stay.
            TrainingError: Training failed; the same command goes on from its last checkpoint.
        """
        from compression.distillation.sequence_level import decoder_depth, with_fewer_layers, write_teachers_texts
        from compression.distillation.training_command import run_training
        from compression.encoder.torch_model import load_directory

        task, depth = state.bundle.task, decoder_depth(state.original)
        assert isinstance(task, SequenceToSequence)
        stay = self.decoder_layers or (depth + 1) // 2
        if stay > depth:
            raise ConfigError(
                f"distill_texts.decoder_layers={stay}, but the agent has {depth}",
                allowed=f"at most {depth}",
                remedy="lower it or leave it out",
            )
        directory = state.work_directory / f"distill_texts-{student_key(state, self.position)}"
        left = write_teachers_texts(state, directory / "data", self.num_beams or task.num_beams)
        save_student(state, with_fewer_layers(state.original, stay), directory / "student")
        trained = run_training(self._settings(state, str(directory)), directory)
        state.model = load_directory(trained, task.architecture)
        state.weights_changed = True
        own = f", {left} with their own targets" if left else ""
        state.note(
            f"distill_texts: {stay} of {depth} decoder layers, {self.epochs} epochs at learning rate {self.learning_rate} on what the agent "
            f"writes for {len(state.splits.train):,} texts{own}"
        )

    def _settings(self, state: PipelineState, directory: str) -> dict[str, Any]:
        manifest = state.bundle.manifest
        model = {"name": f"{directory}/student", "max_tokens": manifest.max_tokens, "stride": manifest.stride}
        return {
            "epochs": self.epochs, "num_workers": self.num_workers, "seed": state.seed, "model": model,
            "task": state.bundle.task.model_dump(mode="json"), "data": {"path": f"{directory}/data"},
            "segmentation": manifest.segmentation.model_dump(mode="json"), "batch": {"tokens": self.batch_tokens},
            "optimizer": {"kind": "adamw", "learning_rate": self.learning_rate},
        }  # fmt: skip
