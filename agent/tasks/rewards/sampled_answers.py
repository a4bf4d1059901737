"""What a task adds whose answers to training windows can be drawn from the model's own probabilities, and rewarded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from agent.encoding import Float32, Int64


class RewardsSamples(ABC):
    """A task that tells how good an answer to a window is: the choices of all labelled tokens of the window, or of all its outputs."""

    @abstractmethod
    def best_choices(self, logits: Float32) -> Int64:
        """The answer to a window, decoded as predictions are.

        Args:
            logits: float32 [choices, options], up to a constant for each choice.

        Returns:
            int64 [choices].
        """

    @abstractmethod
    def reward_of(self, chosen: Int64, wanted: Int64) -> float:
        """How good an answer to a window is by the task's own metric, 0 to 1.

        Args:
            chosen, wanted: The answer and the targets, int64 [choices].
        """
