"""The step shrink: removes whole layers, and the same number of feed-forward units from every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agent.errors import ConfigError
from cluster.progress import timed_bar
from compression.distillation.student_training import KEPT_LAYERS
from compression.pruning.calibration import Importance
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from compression.pruning.calibration import LabelledBatch


class ShrinkStep(BaseStep):
    """Removes layers and units down to the given sizes; the result is a stock model of the architecture.

    It costs more quality than pruning, which step distill recovers.
    """

    position: ClassVar[int] = 4
    kind: Literal["shrink"] = "shrink"
    layers: int | None = Field(None, ge=1, description="layers that stay; default: all")
    ffn_units: int | None = Field(None, ge=8, description="feed-forward units that stay in every layer; default: all")
    importance: Importance = Field("first_order", description="how units are judged: first_order or fisher")
    num_calibration: int = Field(512, ge=1, description="training examples by which layers and units are judged")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.layers is None and self.ffn_units is None:
            raise ValueError("give layers, ffn_units, or both: {kind: shrink, layers: 4, ffn_units: 768}")
        return self

    def run(self, state: PipelineState) -> None:
        """Removes layers one by one, each time the one whose removal gives the least loss; then units by importance.

        Raises:
            ConfigError: The architecture is not supported, or has fewer layers or units than are to stay.
        """
        from compression.encoder.encoder_structure import find_blocks
        from compression.pruning.calibration import labelled_batches

        blocks = find_blocks(state.model)
        units = min(block.num_units for block in blocks)
        for name, wanted, found in (("layers", self.layers, len(blocks)), ("ffn_units", self.ffn_units, units)):
            if wanted is not None and wanted > found:
                raise ConfigError(
                    f"shrink.{name}={wanted}, but the agent has {found}",
                    allowed=f"at most {found}",
                    remedy=f"lower {name} or leave it out",
                )
        batches = labelled_batches(state.bundle.task, state.encoder, state.sample_train(self.num_calibration))
        removed: list[int] = []
        if self.layers is not None:
            removed = _drop_layers(state.model, batches, self.layers)
            state.step_outputs[KEPT_LAYERS] = [number for number in range(len(blocks)) if number not in removed]
        if self.ffn_units is not None:
            self._drop_units(state.model, batches, self.ffn_units)
        state.weights_changed = True
        summary = f"layers {', '.join(map(str, sorted(removed)))} removed" if removed else "all layers stay"
        state.note(f"shrink: {summary} (counted from 0), {self.ffn_units or units} units in each of the others")

    def _drop_units(self, model: PreTrainedModel, batches: Sequence[LabelledBatch], stay: int) -> None:
        import torch

        from compression.encoder.encoder_structure import find_blocks, set_units
        from compression.encoder.structural_pruning import keep_units
        from compression.pruning.calibration import calibrate
        from compression.pruning.reconstruction import refit

        with timed_bar("shrink: importance of units") as progress:
            seen = calibrate(model, batches, self.importance, progress)
        for block, projection in zip(find_blocks(model), seen.units, strict=True):
            keep = torch.zeros(block.num_units, dtype=torch.bool)
            keep[projection.scores.topk(stay).indices] = True
            refit(block.ffn_output.linear, keep, projection.gram)
            keep_units(block, keep)
        set_units(model, stay)


def _drop_layers(model: PreTrainedModel, batches: Sequence[LabelledBatch], stay: int) -> list[int]:
    """Removes layers greedily, scoring all that remain after every removal; returns the original numbers of the removed."""
    from compression.encoder.encoder_structure import keep_layers, layers_of

    left = dict(enumerate(layers_of(model)))
    removed: list[int] = []
    rounds = len(left) - stay
    tries = sum(len(left) - number for number in range(rounds))
    with timed_bar("shrink: which layers") as progress:
        done = 0
        for _ in range(rounds):
            losses = {}
            for number in left:
                keep_layers(model, [layer for other, layer in left.items() if other != number])
                losses[number] = _loss(model, batches)
                done += 1
                progress(done, tries)
            removed.append(min(losses, key=losses.__getitem__))
            del left[removed[-1]]
    keep_layers(model, list(left.values()))
    return removed


def _loss(model: PreTrainedModel, batches: Sequence[LabelledBatch]) -> float:
    import torch

    from compression.pruning.calibration import total_loss

    with torch.inference_mode():
        return sum(float(total_loss(model, labelled)) for labelled in batches)
