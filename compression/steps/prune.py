"""Structured pruning: whole heads and feed-forward units become zero, and what remains is fitted to make up for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compression.bars import bar
from compression.state import State
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from torch import Tensor

    from compression.calibration import Projection
    from compression.layout import Block

LEAST_UNITS = 8  # feed-forward units that every layer keeps: one step of the widest vector instructions


class PruneStep(BaseStep):
    """Removes the heads and units that the loss hangs on least. The torch weights keep their shape, with zeros.

    The default ratios are those that kept more than 99% of the F1 of two CoNLL-2003 agents without further training
    (docs/compression.md has the measurements).
    """

    place: ClassVar[int] = 10
    kind: Literal["prune"] = "prune"
    head_ratio: float = Field(0.1, ge=0, lt=1, description="part of all attention heads to remove")
    ffn_ratio: float = Field(0.3, ge=0, lt=1, description="part of all feed-forward units to remove")
    num_calibration: int = Field(512, ge=1, description="training examples by which importance is judged")
    repair: bool = Field(True, description="fit the output projections to their former outputs by least squares")

    def run(self, state: State) -> None:
        """Judges, removes, repairs.

        Raises:
            ConfigError: The architecture keeps its heads and units in a way that we do not know.
        """
        from compression.calibration import calibrate
        from compression.layout import find_blocks

        blocks = find_blocks(state.model)
        train = state.splits.train
        sample = random.Random(state.seed).sample(train, min(self.num_calibration, len(train)))
        with bar("prune: importance of heads and units") as progress:
            seen = calibrate(state.model, state.bundle.task, state.bundle.encoder, sample, progress)
        heads = self._remove(seen.heads, self.head_ratio, least=1)
        units = self._remove(seen.units, self.ffn_ratio, least=LEAST_UNITS)
        for block, kept_heads, kept_units in zip(blocks, heads, units, strict=True):
            _zero(block, kept_heads, kept_units)
        state.changed = True
        state.note(f"prune: {_counts('heads', heads, self.head_ratio)}; {_counts('units', units, self.ffn_ratio)}")

    def _remove(self, projections: Sequence[Projection], ratio: float, *, least: int) -> list[Tensor]:
        from compression.repair import refit, remove_inputs
        from compression.selection import select

        keeps = select([projection.scores for projection in projections], ratio, least=least)
        for projection, keep in zip(projections, keeps, strict=True):
            columns = keep.repeat_interleave(projection.group)
            if self.repair and not bool(keep.all()):
                refit(projection.slot.linear, columns, projection.gram)
            else:
                remove_inputs(projection.slot.linear, columns)
        return keeps


def _zero(block: Block, heads: Tensor, units: Tensor) -> None:
    """Zeroes what leads into removed heads and units; what leads out of them is zero already."""
    columns = heads.repeat_interleave(block.head_size)
    for slot, keep in [*((slot, columns) for slot in block.projections), (block.ffn_input, units)]:
        slot.linear.weight.data[~keep] = 0
        if slot.linear.bias is not None:
            slot.linear.bias.data[~keep] = 0


def _counts(name: str, keeps: Sequence[Tensor], ratio: float) -> str:
    total, kept = sum(map(len, keeps)), int(sum(keep.sum() for keep in keeps))
    short = int(ratio * total) - (total - kept)
    layers = ", ".join(str(int(keep.sum())) for keep in keeps)
    limit = f"; {short} more stay because every layer keeps some" if short else ""
    return f"{kept} of {total} {name} stay (by layer {layers}{limit})"
