"""Finds attention heads and feed-forward units in the modules of BERT-like encoders, and sets their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.encoder_layers import find_layers
from agent.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_PRUNABLE = "encoders built like BERT (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA) and DistilBERT"


@dataclass(frozen=True)
class Slot:
    """A linear layer with the module that holds it, so that it can be replaced."""

    parent: nn.Module
    name: str

    @property
    def linear(self) -> nn.Linear:
        """The layer: weight float32 [outputs, inputs], bias float32 [outputs]."""
        found: nn.Linear = getattr(self.parent, self.name)
        return found

    def replace(self, linear: nn.Module) -> None:
        """Replaces the layer."""
        setattr(self.parent, self.name, linear)


@dataclass(frozen=True)
class Block:
    """One layer of an encoder.

    Attributes:
        attention: The module that stores the number of heads.
        projections: Query, key and value.
        attention_output: Its inputs are the concatenated heads.
        ffn_input, ffn_output: Its outputs, and the other's inputs, are the feed-forward units.
        head_size: Columns of `attention_output` of one head.
    """

    attention: nn.Module
    projections: tuple[Slot, Slot, Slot]
    attention_output: Slot
    ffn_input: Slot
    ffn_output: Slot
    head_size: int

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self.attention_output.linear.in_features // self.head_size

    @property
    def num_units(self) -> int:
        """Number of feed-forward units."""
        return self.ffn_output.linear.in_features

    def set_num_heads(self, num_heads: int) -> None:
        """Sets the number of heads in the attention module."""
        for name, value in zip(_HEAD_COUNTS, (num_heads, num_heads * self.head_size) * 2, strict=True):
            if hasattr(self.attention, name):
                setattr(self.attention, name, value)

    def per_head(self, values: Tensor) -> Tensor:
        """[..., heads * head_size] to [..., heads, head_size]."""
        return values.reshape(*values.shape[:-1], -1, self.head_size)


_HEAD_COUNTS = ("num_attention_heads", "all_head_size", "n_heads", "dim")  # of BERT, then of DistilBERT


def find_blocks(model: PreTrainedModel) -> list[Block]:
    """The layers of an encoder, first to last.

    Raises:
        ConfigError: The architecture is built differently.
    """
    blocks = [_bert_block(layer) or _distilbert_block(layer) for layer in layers_of(model)]
    found = [block for block in blocks if block]
    if not blocks or len(found) != len(blocks):
        raise ConfigError(
            f"heads and units of a {type(model).__name__} (model_type {model.config.model_type!r}) cannot be pruned",
            allowed=_PRUNABLE,
            remedy="leave the step out: steps=[export, quantize, verify]",
        )
    return found


def is_prunable(model: PreTrainedModel) -> bool:
    """Whether `find_blocks` supports the architecture."""
    try:
        return bool(find_blocks(model))
    except ConfigError:
        return False


def keep_layers(model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
    """Keeps only these layers of an encoder, in this order, and sets their number in its configuration."""
    from torch import nn

    found = find_layers(model)
    assert found is not None
    parent, _, name = found[0].rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, nn.ModuleList(layers))
    _set_size(model, _LAYER_COUNTS, len(layers))


def set_units(model: PreTrainedModel, units: int) -> None:
    """Sets the number of feed-forward units of every layer in the configuration."""
    _set_size(model, _UNIT_COUNTS, units)


_LAYER_COUNTS, _UNIT_COUNTS = (
    ("num_hidden_layers", "n_layers"),
    ("intermediate_size", "hidden_dim"),
)  # DistilBERT's second


def _set_size(model: PreTrainedModel, names: tuple[str, ...], value: int) -> None:
    known = model.config.to_dict()
    setattr(model.config, next(name for name in reversed(names) if name in known), value)


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers as modules, lowest first; none if the encoder has no list of them."""
    found = find_layers(model)
    return list(found[1]) if found else []


def _bert_block(layer: nn.Module) -> Block | None:
    names = ("attention.self", "attention.output", "intermediate", "output")
    children = dict(layer.named_modules())
    attention, attention_output, ffn_input, ffn_output = (children.get(name) for name in names)
    if attention is None or attention_output is None or ffn_input is None or ffn_output is None:
        return None
    projections = _only_linears(attention, ("query", "key", "value"))
    outputs = (attention_output, ffn_input, ffn_output)
    if projections is None or not all(hasattr(module, "dense") for module in outputs):
        return None
    read, inner, outer = (Slot(module, "dense") for module in outputs)
    return _consistent(Block(attention, projections, read, inner, outer, _head_size(attention)), layer)


def _distilbert_block(layer: nn.Module) -> Block | None:
    children = dict(layer.named_modules())
    attention, ffn = children.get("attention"), children.get("ffn")
    if attention is None or ffn is None or not hasattr(attention, "n_heads") or not hasattr(ffn, "lin2"):
        return None
    projections = _only_linears(attention, ("q_lin", "k_lin", "v_lin", "out_lin"))
    if projections is None:
        return None
    read, inner, outer = Slot(attention, "out_lin"), Slot(ffn, "lin1"), Slot(ffn, "lin2")
    return _consistent(Block(attention, projections, read, inner, outer, _head_size(attention)), layer)


def _head_size(attention: Any) -> int:
    return int(attention.attention_head_size)


def _only_linears(module: nn.Module, names: tuple[str, ...]) -> tuple[Slot, Slot, Slot] | None:
    """The first three of `names`, if these are the module's only weights."""
    if {name.rpartition(".")[0] for name, _ in module.named_parameters()} != set(names):
        return None
    query, key, value = (Slot(module, name) for name in names[:3])
    return query, key, value


def _consistent(block: Block, layer: nn.Module) -> Block | None:
    """None for a layer with more linear layers than the six (MobileBERT, ConvBERT), or with other widths."""
    slots = [*block.projections, block.attention_output, block.ffn_input, block.ffn_output]
    if sum(hasattr(module, "in_features") for module in layer.modules()) != len(slots):
        return None
    width = block.attention_output.linear.in_features
    same = all(slot.linear.out_features == width for slot in block.projections)
    return block if same and width % block.head_size == 0 else None
