"""The step distill: trains the current network with the original agent as its teacher."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from agent.errors import ConfigError
from agent.tasks import BaseTask
from compression.distillation.student_training import StudentTraining, student_key
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep


class DistillStep(StudentTraining, BaseStep):
    """Trains the network on the agent's data, with the original agent as teacher, by Ray Train and DeepSpeed."""

    position: ClassVar[int] = 6
    recovers_quality: ClassVar[bool] = True
    kind: Literal["distill"] = "distill"
    epochs: int = Field(3, ge=1, description="passes over the training split")

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses tasks whose outputs are a whole vocabulary.

        Raises:
            ConfigError: The task is such a one.
        """
        super().check_task(task)
        if task.decision.of_vocabulary:
            raise ConfigError(
                f"step distill does not teach a student of {task.kind}: its outputs are the whole vocabulary",
                allowed="prune, export, quantize, verify",
                remedy=f"leave the step out; train a smaller model.name with task.kind={task.kind} instead",
            )

    def run(self, state: PipelineState) -> None:
        """Trains the network of the state as a student and replaces it by the result.

        Raises:
            TrainingError: Training failed; the same command goes on from its last checkpoint.
        """
        directory = state.work_directory / f"distill-{student_key(state, self.position)}"
        state.model = self.train_student(state, epochs=self.epochs, directory=directory)
        state.weights_changed = True
        state.note(f"distill: {self.epochs} epochs at {self.summary}")
