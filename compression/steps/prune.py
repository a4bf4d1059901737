"""The step prune: zeroes whole attention heads and feed-forward units, and refits the remaining weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agent.errors import ConfigError
from agent.tasks import BaseTask
from cluster.progress import timed_bar
from compression.distillation.student_training import StudentTraining, student_key
from compression.pruning.calibration import Importance
from compression.pruning.pruning_target import KeptStructure, PruningTarget
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from torch import Tensor

    from compression.pruning.calibration import Calibration, LabelledBatch, ProjectionStatistics

_LEAST_FACTOR = 1 / 8
_NUM_SCORED = 1_000  # dev examples that judge how much may go
LEAST_UNITS = 8  # feed-forward units that every layer keeps: one step of the widest vector instructions


class PruneStep(BaseStep):
    """Removes the heads and units that matter least to the loss. The PyTorch weights keep their shape, with zeros.

    The default ratios kept more than 99% of the F1 of two CoNLL-2003 agents without further training (docs/benchmarks.md). Agents that learned from
    less text may have less to spare: `dev_score_kept` halves the ratios until the dev split shows that it is kept.
    Step shrink removes whole layers.
    """

    position: ClassVar[int] = 10
    kind: Literal["prune"] = "prune"
    head_ratio: float = Field(0.1, ge=0, lt=1, description="part of all attention heads to remove")
    ffn_ratio: float = Field(0.3, ge=0, lt=1, description="part of all feed-forward units to remove")
    target: PruningTarget | None = Field(
        None, description="what to reach instead: the ratios keep their proportion and are as small as does"
    )
    dev_score_kept: float | None = Field(
        None,
        gt=0,
        le=1,
        description="part of the dev score to keep: the ratios are halved, three times at most, until it is",
    )
    importance: Importance = Field(
        "first_order", description="how heads and units are judged: first_order, or fisher (second order)"
    )
    num_calibration: int = Field(512, ge=1, description="training examples by which importance is judged")
    repair: bool = Field(True, description="fit the output projections to their former outputs by least squares")
    rounds: int = Field(1, ge=1, description="in how many rounds; each judges anew, the first remove most")
    recovery_epochs: int = Field(
        0, ge=0, description="passes over the training split after each round, with the agent as teacher"
    )
    recovery: StudentTraining = StudentTraining()

    @model_validator(mode="after")
    def _target_has_a_direction(self) -> Self:
        if self.target and not self.head_ratio and not self.ffn_ratio:
            raise ValueError("target needs head_ratio or ffn_ratio above 0: what to remove, in which proportion")
        if self.dev_score_kept and (self.target or self.recovery_epochs):
            raise ValueError("dev_score_kept is for ratios alone, without target and recovery_epochs")
        return self

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses to retrain what has no teacher.

        Raises:
            ConfigError: The task's outputs are a whole vocabulary.
        """
        super().check_task(task)
        if task.decision.of_vocabulary and self.recovery_epochs:
            raise ConfigError(
                f"prune.recovery_epochs={self.recovery_epochs}: an agent of {task.kind} is not taught by another",
                allowed="0",
                remedy="leave it out; dev_score_kept removes as little as keeps the score",
            )

    def extra_cache_inputs(self, following: Sequence[Any]) -> Any:
        """Speeds are measured in int8 if step quantize follows."""
        timed = self.target is not None and self.target.name in ("latency_ms", "speedup")
        return any(step.kind == "quantize" for step in following) if timed else None

    def run(self, state: PipelineState) -> None:
        """Scores, removes, refits and retrains in each round.

        Raises:
            ConfigError: The architecture is not supported, or the target is out of reach.
            TrainingError: Recovery failed; the same command goes on from its last checkpoint.
        """
        from compression.pruning.calibration import labelled_batches

        batches = labelled_batches(state.bundle.task, state.encoder, state.sample_train(self.num_calibration))
        seen = self._statistics(state, batches)
        if self.dev_score_kept:
            kept, factor = self._keep_score(state, batches, seen, self.dev_score_kept)
        else:
            kept, factor = self._remove_in_rounds(state, batches, seen, None)
        state.weights_changed = True
        state.note(f"prune: {self._summary(kept, factor)}")

    def _keep_score(
        self, state: PipelineState, batches: Sequence[LabelledBatch], seen: Calibration, share: float
    ) -> tuple[KeptStructure, float]:
        """Removes as much of the ratios as keeps this share of the dev score, or an eighth of them."""
        whole, needed, factor = copy.deepcopy(state.model.state_dict()), share * _dev_score(state), 1.0
        while True:
            kept, _ = self._remove_in_rounds(state, batches, seen, factor)
            reached = _dev_score(state)
            if reached >= needed or factor <= _LEAST_FACTOR:
                return kept, factor
            print(f"prune: dev score {reached:.4f}, {needed:.4f} is needed; again with half of the ratios", flush=True)
            factor /= 2
            state.model.load_state_dict(whole)

    def _remove_in_rounds(
        self, state: PipelineState, batches: Sequence[LabelledBatch], seen: Calibration, factor: float | None
    ) -> tuple[KeptStructure, float]:
        """Removes the ratios times a factor; None finds the one that reaches the target. `seen` is of the network as it is."""
        for number in range(1, self.rounds + 1):
            if number > 1:
                seen = self._statistics(state, batches)
            if factor is None or (self._is_counted and number == self.rounds):
                factor = self._factor(state, seen)
            kept = self._keep(seen, factor * _removed_share(number, self.rounds))
            self._remove(state, seen, kept)
            if self.recovery_epochs:
                self._recover(state, number)
        assert factor is not None
        return kept, factor

    @property
    def _is_counted(self) -> bool:
        """Whether the target is a count, which the last round can meet exactly; a measured speed is noisy and measured once."""
        return self.target is not None and self.target.name not in ("latency_ms", "speedup")

    def _statistics(self, state: PipelineState, batches: Sequence[LabelledBatch]) -> Calibration:
        from compression.pruning.calibration import calibrate

        with timed_bar("prune: importance of heads and units") as progress:
            return calibrate(state.model, batches, self.importance, progress)

    def _factor(self, state: PipelineState, seen: Calibration) -> float:
        """The factor that the ratios are multiplied by to reach the target."""
        from compression.pruning.pruning_target import smallest_factor

        if self.target is None:
            return 1.0
        most = 1 / min(ratio for ratio in (self.head_ratio, self.ffn_ratio) if ratio)
        return smallest_factor(self.target, state, lambda factor: self._keep(seen, factor), most)

    def _keep(self, seen: Calibration, factor: float) -> KeptStructure:
        from compression.pruning.selection import select

        def keep(projections: Sequence[ProjectionStatistics], ratio: float, least: int) -> list[Tensor]:
            return select([one.scores for one in projections], min(1.0, factor * ratio), minimum=least)

        return KeptStructure(keep(seen.heads, self.head_ratio, 1), keep(seen.units, self.ffn_ratio, LEAST_UNITS))

    def _remove(self, state: PipelineState, seen: Calibration, kept: KeptStructure) -> None:
        from compression.encoder.encoder_structure import find_blocks
        from compression.pruning.pruning_target import zero
        from compression.pruning.reconstruction import refit

        for projections, keeps in ((seen.heads, kept.heads), (seen.units, kept.units)):
            for projection, keep in zip(projections, keeps, strict=True):
                if self.repair and not bool(keep.all()):
                    refit(projection.slot.linear, keep.repeat_interleave(projection.group), projection.gram)
        for block, heads, units in zip(find_blocks(state.model), kept.heads, kept.units, strict=True):
            zero(block, heads, units)

    def _recover(self, state: PipelineState, number: int) -> None:
        directory = state.work_directory / f"prune-{student_key(state, self.position)}-{number}"
        state.model = self.recovery.train_student(
            state, epochs=self.recovery_epochs, directory=directory, keep_zeros=True
        )

    def _summary(self, kept: KeptStructure, factor: float) -> str:
        heads = _counts("heads", kept.heads, min(1.0, factor * self.head_ratio))
        units = _counts("units", kept.units, min(1.0, factor * self.ffn_ratio))
        parts = [f"{heads}; {units}"]
        head_ratio, ffn_ratio = (min(1.0, factor * ratio) for ratio in (self.head_ratio, self.ffn_ratio))
        ratios = f"{head_ratio:.3g} of heads, {ffn_ratio:.3g} of units"
        if self.target:
            parts.append(f"for {self.target.name} {self.target.value:g}: {ratios}")
        elif factor < 1:
            parts.append(f"to keep {self.dev_score_kept:.1%} of the dev score: {ratios}")
        if self.rounds > 1:
            parts.append(f"{self.rounds} rounds")
        if self.recovery_epochs:
            parts.append(f"after each {self.recovery_epochs} epochs at {self.recovery.summary}")
        return "; ".join(parts)


def _dev_score(state: PipelineState) -> float:
    """The primary score of the network on examples of the dev split."""
    from agent.evaluation import evaluate
    from compression.encoder.torch_model import torch_forward

    return evaluate(state.bundle.task, state.encoder, state.splits.dev[:_NUM_SCORED], torch_forward(state.model)).value


def _removed_share(number: int, rounds: int) -> float:
    """Share of the removal that is done after a round: 1 - (1 - t)^3 (Zhu and Gupta, arXiv 1710.01878)."""
    return 1 - (1 - number / rounds) ** 3


def _counts(name: str, keeps: Sequence[Tensor], ratio: float) -> str:
    total, kept = sum(map(len, keeps)), int(sum(keep.sum() for keep in keeps))
    short = int(ratio * total) - (total - kept)
    layers = ", ".join(str(int(keep.sum())) for keep in keeps)
    limit = f"; {short} more stay because every layer keeps some" if short else ""
    return f"{kept} of {total} {name} stay (by layer {layers}{limit})"
