"""Pruning to a target (weights, FLOPs, latency or speedup): the least that must be removed to reach it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from agent.config.base import Config
from agent.errors import ConfigError
from cluster.progress import timed_bar
from compression.encoder.encoder_structure import Block, find_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from agent.batching import Batch
    from compression.state.pipeline_state import PipelineState

LATENCY_TOKENS, BATCH_SIZE = 16, 32
_POINTS = 5  # of the table of measured speeds
_ROUNDS = 7
_HALVINGS = 30  # of the range of factors: far finer than one unit


class PruningTarget(Config):
    """Exactly one target for the pruned network, reached by removing as little as possible."""

    parameters: PositiveInt | None = Field(None, description="at most so many weights, without what was removed")
    size_mb: PositiveFloat | None = Field(None, description="at most so many megabytes of float32 weights")
    flops_per_token: PositiveInt | None = Field(
        None, description="at most so many operations a token, in a sentence of 64"
    )
    latency_ms: PositiveFloat | None = Field(
        None,
        description="at most so long for one sentence of 16 tokens, measured in ONNX Runtime with the run's threads",
    )
    speedup: float | None = Field(
        None, ge=1, description="so many times the sentences a second of before, measured likewise in batches of 32"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set - {name for name in self.model_fields_set if getattr(self, name) is None}) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def name(self) -> str:
        """Key of the target."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        """Value of the target."""
        return float(getattr(self, self.name))


@dataclass(frozen=True)
class KeptStructure:
    """The heads and units that stay: for each layer bool [heads] and bool [units]."""

    heads: Sequence[Tensor]
    units: Sequence[Tensor]


KeptAt = Callable[[float], KeptStructure]
"""The heads and units that stay at a factor of removal; at 0 all stay."""


def smallest_factor(target: PruningTarget, state: PipelineState, kept_at: KeptAt, most: float) -> float:
    """The smallest factor of removal, from 0 to `most`, that reaches a target.

    Args:
        target: The target.
        state: Holds the network; it does not change.
        kept_at: What stays at a factor.
        most: The factor at which nothing more can be removed.

    Raises:
        ConfigError: The target is not reached at `most`; names what is.
    """
    cost = (
        _measured(target, state, kept_at, most) if target.name in ("latency_ms", "speedup") else _counted(target, state)
    )
    wanted = 1 / target.value if target.name == "speedup" else target.value  # a part of the time of before
    if (best := cost(kept_at(most), most)) > wanted:
        shown = 1 / best if target.name == "speedup" else best
        raise ConfigError(
            f"prune.target.{target.name}={target.value:g} is out of reach: with all removed that can be it is {shown:.6g}",
            allowed=f"{target.name} of {'at most' if target.name == 'speedup' else 'at least'} {shown:.6g}",
            remedy="give less to reach, let head_ratio and ffn_ratio both be above 0, or shrink before",
        )
    low, high = 0.0, most
    if cost(kept_at(low), low) <= wanted:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(kept_at(middle), middle) <= wanted else (middle, high)
    return high


Cost = Callable[[KeptStructure, float], float]


def _counted(target: PruningTarget, state: PipelineState) -> Cost:
    """A cost that is computed: that of the whole network less that of removed heads and units."""
    from compression.encoder.flops import TOKENS, flops_per_token
    from compression.encoder.structural_pruning import num_parameters

    blocks, length = find_blocks(state.model), state.bundle.manifest.max_tokens
    if target.name == "flops_per_token":
        whole = float(flops_per_token(state.model, length))
        each: list[tuple[float, float]] = [flops_of(block, min(TOKENS, length)) for block in blocks]
    else:
        scale = 4 / 1e6 if target.name == "size_mb" else 1.0
        whole = scale * num_parameters(state.model)
        each = [(scale * head, scale * unit) for head, unit in map(weights_of, blocks)]

    def cost(kept: KeptStructure, _: float) -> float:
        removed = [
            (int((~heads).sum()), int((~units).sum())) for heads, units in zip(kept.heads, kept.units, strict=True)
        ]
        return whole - sum(
            heads * head + units * unit for (heads, units), (head, unit) in zip(removed, each, strict=True)
        )

    return cost


def weights_of(block: Block) -> tuple[int, int]:
    """Numbers of weights of a head and of a unit."""
    leading = sum(slot.linear.in_features + (slot.linear.bias is not None) for slot in block.projections)
    head = block.head_size * (leading + block.attention_output.linear.out_features)
    inner = block.ffn_input.linear
    return head, inner.in_features + (inner.bias is not None) + block.ffn_output.linear.out_features


def flops_of(block: Block, tokens: int) -> tuple[int, int]:
    """FLOPs of a head and of a unit per token, in a sentence of `tokens`."""
    leading = sum(slot.linear.in_features for slot in block.projections)
    products = leading + block.attention_output.linear.out_features
    head = 2 * block.head_size * (products + 2 * tokens)  # scores, and values by weights
    return head, 2 * (block.ffn_input.linear.in_features + block.ffn_output.linear.out_features)


def _measured(target: PruningTarget, state: PipelineState, kept_at: KeptAt, most: float) -> Cost:
    """A cost that is measured: interpolated between a few factors, timed in turns and forced to decrease.

    In milliseconds; for a speedup relative to the time of the whole network.
    """
    factors = np.linspace(0, most, _POINTS)
    with tempfile.TemporaryDirectory() as scratch, timed_bar(f"prune: {target.name} at {_POINTS} ratios"):
        seconds = _time([kept_at(factor) for factor in factors], state, Path(scratch), _batch(target, state))
    falling = np.minimum.accumulate(seconds)
    table = falling / falling[0] if target.name == "speedup" else falling * 1e3
    return lambda _, factor: float(np.interp(factor, factors, table))


def _batch(target: PruningTarget, state: PipelineState) -> Batch:
    """One sentence of arbitrary tokens, or 32 of the training split of median length."""
    from agent.batching import Batch, pad

    if target.name == "latency_ms":
        ids = np.ones((1, min(LATENCY_TOKENS, state.bundle.manifest.max_tokens)), np.int64)
        return Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    windows = sorted(state.windows(state.splits.train[: 16 * BATCH_SIZE]), key=lambda one: len(one.input_ids))
    first = max(0, (len(windows) - BATCH_SIZE) // 2)
    return pad(windows[first : first + BATCH_SIZE], state.encoder.pad_id)


def _time(
    candidates: Sequence[KeptStructure], state: PipelineState, scratch: Path, batch: Batch
) -> NDArray[np.float64]:
    """Median seconds of one call of each network in ONNX Runtime, in int8 if step quantize follows."""
    from compression.graphs.onnx_graph import graph_forward, open_session
    from compression.measurement.speed import seconds_of

    forwards = [
        graph_forward(open_session(_graph(kept, state, scratch / f"{number}.onnx"), state.threads))
        for number, kept in enumerate(candidates)
    ]
    for forward in forwards:
        forward(batch)
    times = [[seconds_of(forward, batch) for forward in forwards for _ in range(3)] for _ in range(_ROUNDS)]
    medians: NDArray[np.float64] = np.median(np.array(times).reshape(_ROUNDS, len(candidates), 3), axis=(0, 2))
    return medians


def _graph(kept: KeptStructure, state: PipelineState, path: Path) -> Path:
    import copy

    from compression.encoder.structural_pruning import slim
    from compression.encoder.torch_model import quiet
    from compression.exporters.base import Quantization
    from compression.exporters.torchscript import TorchScriptExporter

    model = copy.deepcopy(state.model)
    for block, heads, units in zip(find_blocks(model), kept.heads, kept.units, strict=True):
        zero(block, heads, units)
    exporter = TorchScriptExporter()
    with quiet():
        exporter.write(slim(model), path, fuse=True)
        if not any(step.kind == "quantize" for step in state.steps):
            return path
        small = path.with_suffix(".int8.onnx")
        exporter.quantize(path, small, Quantization(("MatMul", "Gemm", "Attention"), (), per_channel=True))
    return small


def zero(block: Block, heads: Tensor, units: Tensor) -> None:
    """Zeroes the weights into and out of removed heads and units: `heads` bool [heads], `units` bool [units], false: removed."""
    columns = heads.repeat_interleave(block.head_size)
    for slot, keep in [*((slot, columns) for slot in block.projections), (block.ffn_input, units)]:
        slot.linear.weight.data[~keep] = 0
        if slot.linear.bias is not None:
            slot.linear.bias.data[~keep] = 0
    for slot, keep in ((block.attention_output, columns), (block.ffn_output, units)):
        slot.linear.weight.data[:, ~keep] = 0
