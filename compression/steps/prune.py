"""Structured pruning: whole heads and feed-forward units become zero, and what remains is fitted to make up for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.progress import timed_bar
from compression.distillation.teaching import Teaching, lesson_key
from compression.pipeline.pipeline_state import State
from compression.pruning.calibration import Importance
from compression.pruning.pruning_target import Kept, Target
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from torch import Tensor

    from compression.pruning.calibration import Calibration, LabelledBatch, Projection

LEAST_UNITS = 8  # feed-forward units that every layer keeps: one step of the widest vector instructions


class PruneStep(BaseStep):
    """Removes the heads and units that the loss hangs on least. The torch weights keep their shape, with zeros.

    The default ratios are those that kept more than 99% of the F1 of two CoNLL-2003 agents without further training
    (docs/compression.md has the measurements). Whole layers are what the step shrink removes.
    """

    place: ClassVar[int] = 10
    kind: Literal["prune"] = "prune"
    head_ratio: float = Field(0.1, ge=0, lt=1, description="part of all attention heads to remove")
    ffn_ratio: float = Field(0.3, ge=0, lt=1, description="part of all feed-forward units to remove")
    target: Target | None = Field(
        None, description="what to reach instead: the ratios keep their proportion and are as small as does"
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
    recovery: Teaching = Teaching()

    @model_validator(mode="after")
    def _target_has_a_direction(self) -> Self:
        if self.target and not self.head_ratio and not self.ffn_ratio:
            raise ValueError("target needs head_ratio or ffn_ratio above 0: what to remove, in which proportion")
        return self

    def heeds(self, following: Sequence[Any]) -> Any:
        """Speeds are measured in int8 if that is what will be served."""
        timed = self.target is not None and self.target.name in ("latency_ms", "speedup")
        return any(step.kind == "quantize" for step in following) if timed else None

    def run(self, state: State) -> None:
        """Judges, removes, repairs, has it trained, as often as there are rounds.

        Raises:
            ConfigError: The architecture keeps its heads and units in a way that we do not know, or the target is out of reach.
            TrainingError: Recovery failed; the same command goes on from its last checkpoint.
        """
        from compression.pruning.calibration import labelled_batches

        train = state.splits.train
        sample = random.Random(state.seed).sample(train, min(self.num_calibration, len(train)))
        batches = labelled_batches(state.bundle.task, state.encoder, sample)
        factor: float | None = None
        for number in range(1, self.rounds + 1):
            seen = self._judge(state, batches)
            if factor is None or (self._is_counted and number == self.rounds):
                factor = self._factor(state, seen)
            kept = self._keep(seen, factor * _share(number, self.rounds))
            self._remove(state, seen, kept)
            if self.recovery_epochs:
                self._recover(state, number)
        state.changed = True
        assert factor is not None
        state.note(f"prune: {self._summary(kept, factor)}")

    @property
    def _is_counted(self) -> bool:
        """Whether the target can be met exactly by what the last round judges; measuring it again would only differ by chance."""
        return self.target is not None and self.target.name not in ("latency_ms", "speedup")

    def _judge(self, state: State, batches: Sequence[LabelledBatch]) -> Calibration:
        from compression.pruning.calibration import calibrate

        with timed_bar("prune: importance of heads and units") as progress:
            return calibrate(state.model, batches, self.importance, progress)

    def _factor(self, state: State, seen: Calibration) -> float:
        """By what the ratios are multiplied."""
        from compression.pruning.pruning_target import reach

        if self.target is None:
            return 1.0
        most = 1 / min(ratio for ratio in (self.head_ratio, self.ffn_ratio) if ratio)
        return reach(self.target, state, lambda factor: self._keep(seen, factor), most)

    def _keep(self, seen: Calibration, factor: float) -> Kept:
        from compression.pruning.selection import select

        def keep(projections: Sequence[Projection], ratio: float, least: int) -> list[Tensor]:
            return select([one.scores for one in projections], min(1.0, factor * ratio), least=least)

        return Kept(keep(seen.heads, self.head_ratio, 1), keep(seen.units, self.ffn_ratio, LEAST_UNITS))

    def _remove(self, state: State, seen: Calibration, kept: Kept) -> None:
        from compression.encoder.encoder_structure import find_blocks
        from compression.pruning.pruning_target import zero
        from compression.pruning.reconstruction import refit

        for projections, keeps in ((seen.heads, kept.heads), (seen.units, kept.units)):
            for projection, keep in zip(projections, keeps, strict=True):
                if self.repair and not bool(keep.all()):
                    refit(projection.slot.linear, keep.repeat_interleave(projection.group), projection.gram)
        for block, heads, units in zip(find_blocks(state.model), kept.heads, kept.units, strict=True):
            zero(block, heads, units)

    def _recover(self, state: State, number: int) -> None:
        directory = state.workshop / f"prune-{lesson_key(state, self.place)}-{number}"
        state.model = self.recovery.teach(state, epochs=self.recovery_epochs, directory=directory, keep_zeros=True)

    def _summary(self, kept: Kept, factor: float) -> str:
        heads = _counts("heads", kept.heads, min(1.0, factor * self.head_ratio))
        units = _counts("units", kept.units, min(1.0, factor * self.ffn_ratio))
        said = [f"{heads}; {units}"]
        if self.target:
            ratios = (
                f"{min(1.0, factor * self.head_ratio):.3g} of heads, {min(1.0, factor * self.ffn_ratio):.3g} of units"
            )
            said.append(f"for {self.target.name} {self.target.value:g}: {ratios}")
        if self.rounds > 1:
            said.append(f"{self.rounds} rounds")
        if self.recovery_epochs:
            said.append(f"after each {self.recovery_epochs} epochs at {self.recovery.summary}")
        return "; ".join(said)


def _share(number: int, rounds: int) -> float:
    """How much of all that goes is gone after a round: 1 - (1 - t)^3 (Zhu and Gupta, arXiv 1710.01878)."""
    return 1 - (1 - number / rounds) ** 3


def _counts(name: str, keeps: Sequence[Tensor], ratio: float) -> str:
    total, kept = sum(map(len, keeps)), int(sum(keep.sum() for keep in keeps))
    short = int(ratio * total) - (total - kept)
    layers = ", ".join(str(int(keep.sum())) for keep in keeps)
    limit = f"; {short} more stay because every layer keeps some" if short else ""
    return f"{kept} of {total} {name} stay (by layer {layers}{limit})"
