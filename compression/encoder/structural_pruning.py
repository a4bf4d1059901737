"""Removes heads and feed-forward units that are zero, and splits weights of low rank, whoever made them so.

The answers of the model stay the same.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from compression.encoder.encoder_structure import Block, Slot, find_blocks, is_prunable

if TYPE_CHECKING:
    from torch import Tensor, nn

    ModelT = TypeVar("ModelT", bound=nn.Module)


def slim(model: ModelT) -> ModelT:
    """A copy without its zero heads and units, weights of low rank as two products; one head and unit stay in every layer.

    A head is zero when nothing reads it (its columns of the attention's output projection are zero) or when its values
    are; a unit when nothing reads it. An architecture that `layout` does not know is copied as it is.
    """
    smaller = copy.deepcopy(model)
    if is_prunable(smaller):
        from compression.encoder.factorise import thin

        for block in find_blocks(smaller):
            _slim_heads(block)
            keep_units(block, _at_least_one(live_units(block)))
        thin(smaller)
    return smaller


def live_heads(block: Block) -> Tensor:
    """The heads that contribute: bool [heads]."""
    value = block.projections[2].linear
    said = value.weight.abs().sum(dim=1) + (0 if value.bias is None else value.bias.abs())
    read = block.attention_output.linear.weight.abs().sum(dim=0)
    live: Tensor = (block.per_head(said).sum(-1) > 0) & (block.per_head(read).sum(-1) > 0)
    return live


def live_units(block: Block) -> Tensor:
    """The feed-forward units that contribute: bool [units]."""
    live: Tensor = block.ffn_output.linear.weight.abs().sum(dim=0) > 0
    return live


def num_parameters(model: nn.Module) -> int:
    """Weights of a model, counted once where they are shared."""
    return sum(parameter.numel() for parameter in model.parameters())


def _slim_heads(block: Block) -> None:
    keep = _at_least_one(live_heads(block))
    columns = keep.repeat_interleave(block.head_size)
    for slot in block.projections:
        _keep_outputs(slot, columns)
    _keep_inputs(block.attention_output, columns)
    block.set_num_heads(int(keep.sum()))


def keep_units(block: Block, keep: Tensor) -> None:
    """Takes out feed-forward units: keep is bool [units]."""
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
