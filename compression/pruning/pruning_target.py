"""What pruning is to reach, and the least that must go for it. Knows costs of heads and units, not which of them matter."""

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

    from agent.encoding import Batch
    from compression.pipeline.pipeline_state import State

LATENCY_TOKENS, BATCH_SIZE = 16, 32
_POINTS = 5  # of the table of measured speeds
_ROUNDS = 7
_HALVINGS = 30  # of the range of factors: far finer than one unit


class Target(Config):
    """Exactly one thing that the pruned network is to reach, by removing as little as does."""

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
        """Which one."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        """How much of it."""
        return float(getattr(self, self.name))


@dataclass(frozen=True)
class Kept:
    """Which heads and units stay: for each layer bool [heads] and bool [units]."""

    heads: Sequence[Tensor]
    units: Sequence[Tensor]


Plan = Callable[[float], Kept]
"""What stays at a factor: the more, the less; at 0 all."""


def reach(target: Target, state: State, plan: Plan, most: float) -> float:
    """The least factor, from 0 to `most`, at which a target is reached.

    Args:
        target: What is wanted.
        state: Its network is pruned, and left as it is.
        plan: What a factor means.
        most: Where nothing more can go.

    Raises:
        ConfigError: It is not reached even then; says what would be.
    """
    cost = _measured(target, state, plan, most) if target.name in ("latency_ms", "speedup") else _counted(target, state)
    wanted = 1 / target.value if target.name == "speedup" else target.value  # a part of the time of before
    if (best := cost(plan(most), most)) > wanted:
        shown = 1 / best if target.name == "speedup" else best
        raise ConfigError(
            f"prune.target.{target.name}={target.value:g} is out of reach: with all removed that can be it is {shown:.6g}",
            allowed=f"{target.name} of {'at most' if target.name == 'speedup' else 'at least'} {shown:.6g}",
            remedy="give less to reach, let head_ratio and ffn_ratio both be above 0, or shrink before",
        )
    low, high = 0.0, most
    if cost(plan(low), low) <= wanted:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(plan(middle), middle) <= wanted else (middle, high)
    return high


Cost = Callable[[Kept, float], float]


def _counted(target: Target, state: State) -> Cost:
    """By arithmetic: what there was less what goes."""
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

    def cost(kept: Kept, _: float) -> float:
        gone = [(int((~heads).sum()), int((~units).sum())) for heads, units in zip(kept.heads, kept.units, strict=True)]
        return whole - sum(heads * head + units * unit for (heads, units), (head, unit) in zip(gone, each, strict=True))

    return cost


def weights_of(block: Block) -> tuple[int, int]:
    """Weights that a head and a unit have."""
    leading = sum(slot.linear.in_features + (slot.linear.bias is not None) for slot in block.projections)
    head = block.head_size * (leading + block.attention_output.linear.out_features)
    inner = block.ffn_input.linear
    return head, inner.in_features + (inner.bias is not None) + block.ffn_output.linear.out_features


def flops_of(block: Block, tokens: int) -> tuple[int, int]:
    """Operations of a head and of a unit for each token of a sentence of `tokens`."""
    leading = sum(slot.linear.in_features for slot in block.projections)
    products = leading + block.attention_output.linear.out_features
    head = 2 * block.head_size * (products + 2 * tokens)  # scores, and values by weights
    return head, 2 * (block.ffn_input.linear.in_features + block.ffn_output.linear.out_features)


def _measured(target: Target, state: State, plan: Plan, most: float) -> Cost:
    """By a table of a few factors, measured in turns and made to fall; between them a straight line.

    Milliseconds, or for a speedup the part of the time that all of the network takes.
    """
    factors = np.linspace(0, most, _POINTS)
    with tempfile.TemporaryDirectory() as scratch, timed_bar(f"prune: {target.name} at {_POINTS} ratios"):
        seconds = _time([plan(factor) for factor in factors], state, Path(scratch), _batch(target, state))
    falling = np.minimum.accumulate(seconds)
    table = falling / falling[0] if target.name == "speedup" else falling * 1e3
    return lambda _, factor: float(np.interp(factor, factors, table))


def _batch(target: Target, state: State) -> Batch:
    """One sentence of any words, or 32 of the training split, the middle ones by length."""
    from agent.encoding import Batch, pad

    if target.name == "latency_ms":
        ids = np.ones((1, min(LATENCY_TOKENS, state.bundle.manifest.max_tokens)), np.int64)
        return Batch(ids, np.ones_like(ids), np.zeros_like(ids))
    documents = state.bundle.task.encode(state.encoder, state.splits.train[: 16 * BATCH_SIZE])
    windows = sorted(
        (window for document in documents for window in document.windows), key=lambda one: len(one.input_ids)
    )
    first = max(0, (len(windows) - BATCH_SIZE) // 2)
    return pad(windows[first : first + BATCH_SIZE], state.encoder.pad_id)


def _time(plans: Sequence[Kept], state: State, scratch: Path, batch: Batch) -> NDArray[np.float64]:
    """Median seconds of one call of each network, in ONNX Runtime; in int8 if that is what will be served."""
    from compression.graphs.onnx_graph import graph_forward, open_session
    from compression.measurement.speed import seconds_of

    forwards = [
        graph_forward(open_session(_graph(kept, state, scratch / f"{number}.onnx"), state.threads))
        for number, kept in enumerate(plans)
    ]
    for forward in forwards:
        forward(batch)
    times = [[seconds_of(forward, batch) for forward in forwards for _ in range(3)] for _ in range(_ROUNDS)]
    medians: NDArray[np.float64] = np.median(np.array(times).reshape(_ROUNDS, len(plans), 3), axis=(0, 2))
    return medians


def _graph(kept: Kept, state: State, path: Path) -> Path:
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
    """Zeroes removed heads and units, what leads into them and what leads out: `heads` bool [heads], `units` bool [units]."""
    columns = heads.repeat_interleave(block.head_size)
    for slot, keep in [*((slot, columns) for slot in block.projections), (block.ffn_input, units)]:
        slot.linear.weight.data[~keep] = 0
        if slot.linear.bias is not None:
            slot.linear.bias.data[~keep] = 0
    for slot, keep in ((block.attention_output, columns), (block.ffn_output, units)):
        slot.linear.weight.data[:, ~keep] = 0
