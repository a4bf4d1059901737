"""Removes heads and feed-forward units that are zero, and factorises weights of low rank; logits stay the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from compression.encoder.encoder_structure import Block, Slot, find_blocks, is_prunable

if TYPE_CHECKING:
    from torch import Tensor, nn

    ModelT = TypeVar("ModelT", bound=nn.Module)


def slim(model: ModelT) -> ModelT:
    """A copy without zero heads and units and with low-rank weights factorised; every layer keeps one head and one unit.

    A head is zero if its values are, or its columns of the attention's output projection; a unit if its column of the
    feed-forward output is. An architecture that is not supported is copied as it is.
    """
    smaller = copy.deepcopy(model)
    if is_prunable(smaller):
        from compression.encoder.factorise import factorise

        for block in find_blocks(smaller):
            _slim_heads(block)
            keep_units(block, _at_least_one(live_units(block)))
        factorise(smaller)
    return smaller


def live_heads(block: Block) -> Tensor:
    """The heads that are not zero: bool [heads]."""
    value = block.projections[2].linear
    values = value.weight.abs().sum(dim=1) + (0 if value.bias is None else value.bias.abs())
    read = block.attention_output.linear.weight.abs().sum(dim=0)
    live: Tensor = (block.per_head(values).sum(-1) > 0) & (block.per_head(read).sum(-1) > 0)
    return live


def live_units(block: Block) -> Tensor:
    """The feed-forward units that are not zero: bool [units]."""
    live: Tensor = block.ffn_output.linear.weight.abs().sum(dim=0) > 0
    return live


def num_parameters(model: nn.Module) -> int:
    """Number of weights of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _slim_heads(block: Block) -> None:
    keep = _at_least_one(live_heads(block))
    columns = keep.repeat_interleave(block.head_size)
    for slot in block.projections:
        _keep_outputs(slot, columns)
    _keep_inputs(block.attention_output, columns)
    block.set_num_heads(int(keep.sum()))


def keep_units(block: Block, keep: Tensor) -> None:
    """Removes feed-forward units where `keep`, bool [units], is false."""
    _keep_outputs(block.ffn_input, keep)
    _keep_inputs(block.ffn_output, keep)


def _at_least_one(keep: Tensor) -> Tensor:
    if not keep.any():
        keep[0] = True
    return keep


def _keep_outputs(slot: Slot, keep: Tensor) -> None:
    old = slot.linear
    slot.replace(_linear(old.weight[keep], None if old.bias is None else old.bias[keep]))


def _keep_inputs(slot: Slot, keep: Tensor) -> None:
    old = slot.linear
    slot.replace(_linear(old.weight[:, keep], old.bias))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    from torch import nn

    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear
