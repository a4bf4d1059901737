"""Distillation: the network as it is now learns from the agent that it was made from."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compression.distillation.teaching import Teaching, lesson_key
from compression.pipeline.pipeline_state import State
from compression.steps.base import BaseStep


class DistillStep(Teaching, BaseStep):
    """Trains the student on the agent's own data, with the agent as its teacher, by Ray Train and DeepSpeed."""

    place: ClassVar[int] = 6
    restores: ClassVar[bool] = True
    kind: Literal["distill"] = "distill"
    epochs: int = Field(3, ge=1, description="passes over the training split")

    def run(self, state: State) -> None:
        """Writes the student, has it trained, takes up what came of it.

        Raises:
            TrainingError: Training failed; the same command goes on from its last checkpoint.
        """
        directory = state.workshop / f"distill-{lesson_key(state, self.place)}"
        state.model = self.teach(state, epochs=self.epochs, directory=directory)
        state.changed = True
        state.note(f"distill: {self.epochs} epochs at {self.summary}")
