"""Self-critical training: the model's own answers, drawn and rewarded by the task's metric, beside cross-entropy on labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from agent.encoding import IGNORED, Float32, Int64
from agent.tasks import KINDS, BaseTask
from agent.tasks.output_decision import PER_WINDOW, Decision
from agent.tasks.rewards.sampled_answers import RewardsSamples
from training.objectives.base import BaseObjective, Loss
from training.objectives.cross_entropy import CrossEntropy
from training.objectives.window_facts import UInt64, WindowFacts

if TYPE_CHECKING:
    import torch


class SelfCritical(BaseObjective):
    """REINFORCE on drawn answers, with the reward of the decoded answer as the baseline (Rennie et al., arXiv 1612.00563).

    Of each window `samples` answers are drawn, every choice (a tag of a piece, the place of start or end) by its own probabilities. The
    reward of one, less the reward of what decoding answers, times the logarithm of the answer's probability is its term: an answer that
    is better than the decoded one becomes more likely, a worse one less. The rest of the loss is cross-entropy.

    The reward is of a window, as training cuts texts: F1 of the exact entities that the tags say, exact match of the answer's tokens.
    Dropout is the same for drawn and decoded answers. What is drawn depends on seed, epoch and window alone.
    """

    kind: Literal["self_critical"] = "self_critical"
    samples: int = Field(4, ge=1, le=64, description="answers that are drawn for each window and epoch")
    supervised: float = Field(
        0.5, ge=0, lt=1, description="part of the loss that cross-entropy has; drawn answers have the rest"
    )

    def refusal_of(self, task: BaseTask[Any]) -> str:
        """The task has to tell how good an answer is."""
        if isinstance(task, RewardsSamples):
            return ""
        able = [kind for kind, other in KINDS.items() if issubclass(other, RewardsSamples)]
        return f"task.kind={task.kind} has no reward for drawn answers; these have: {', '.join(able)}"

    def bind(
        self,
        counts: Sequence[int],
        device: torch.device,
        decision: Decision = PER_WINDOW,
        task: BaseTask[Any] | None = None,
        rewarded: Sequence[float] = (),
    ) -> Loss:
        """Makes the loss of a run; `task` has to be given."""
        labelled_loss = super().bind(counts, device, decision)
        assert isinstance(task, RewardsSamples)
        rewards: RewardsSamples = task

        def loss(logits: torch.Tensor, targets: torch.Tensor, facts: WindowFacts | None = None, /) -> torch.Tensor:
            if facts is None:
                return labelled_loss(logits, targets)
            drawn = self._drawn_loss(rewards, logits, targets, facts.keys)
            return self.supervised * labelled_loss(logits, targets) + (1 - self.supervised) * drawn

        return loss

    def choice_loss(self, weights: torch.Tensor | None) -> Loss:
        """Of the labels."""
        return CrossEntropy().choice_loss(weights)

    def binary_loss(self, weights: torch.Tensor | None) -> Loss:
        """Of no task that `refusal_of` lets pass."""
        raise NotImplementedError(self.kind)

    def _drawn_loss(
        self, task: RewardsSamples, logits: torch.Tensor, targets: torch.Tensor, keys: UInt64
    ) -> torch.Tensor:
        """The loss of drawn answers, a mean over those of a window and a sum over windows.

        Args:
            task: Gives rewards.
            logits: float [rows, choices, options].
            targets: int64 [rows, choices].
            keys: uint64 [rows].
        """
        import torch

        labelled = targets != IGNORED
        log_probs = logits[labelled].float().log_softmax(-1)
        answers, advantages = self._draw(
            task,
            np.split(log_probs.detach().cpu().numpy(), _ends(labelled)),
            np.split(targets[labelled].cpu().numpy(), _ends(labelled)),
            keys,
        )
        terms = log_probs.gather(1, torch.from_numpy(answers).to(logits.device))
        return -(terms * torch.from_numpy(advantages).to(logits.device)).sum() / self.samples

    def _draw(
        self, task: RewardsSamples, log_probs: Sequence[Float32], wanted: Sequence[Int64], keys: UInt64
    ) -> tuple[Int64, Float32]:
        """Draws answers to windows.

        Args:
            task: Gives rewards.
            log_probs: float32 [choices, options] of each window.
            wanted: int64 [choices] of each window.
            keys: uint64 [windows].

        Returns:
            Answers, int64 [choices of all windows, samples], and by how much each is better than the decoded one, float32 of the same shape.
        """
        answers, advantages = [], []
        for scores, right, key in zip(log_probs, wanted, keys.tolist(), strict=True):
            drawn = draw_choices(scores, self.samples, key)
            worth = task.reward_of(task.best_choices(scores), right) if len(right) else 0.0
            gains = [task.reward_of(one, right) - worth for one in drawn.T] if len(right) else [0.0] * self.samples
            answers.append(drawn)
            advantages.append(np.broadcast_to(np.array(gains, np.float32), drawn.shape))
        return np.concatenate(answers), np.concatenate(advantages)


def draw_choices(log_probs: Float32, number: int, key: int) -> Int64:
    """Draws options by their probabilities: int64 [choices, number].

    Args:
        log_probs: float32 [choices, options].
        number: How often.
        key: Seed; the draws of a choice do not depend on how many options, of no probability, stand behind the others.
    """
    sums = np.exp(log_probs.astype(np.float64)).cumsum(axis=1)
    draws = np.random.default_rng(key).random((len(log_probs), number)) * sums[:, -1:]
    chosen = (sums[:, None, :] <= draws[:, :, None]).sum(axis=-1)
    return np.asarray(np.minimum(chosen, log_probs.shape[1] - 1), np.int64)  # a draw may be rounded up to the whole sum


def _ends(labelled: torch.Tensor) -> list[int]:
    """Where the choices of each row but the last end."""
    ends: list[int] = labelled.sum(1).cumsum(0)[:-1].tolist()
    return ends
