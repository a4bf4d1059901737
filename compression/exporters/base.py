"""The contract of an exporter: writes the ONNX graph of a network, in float32 or int8."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from agent.encoder_layers import takes_asked
from compression.graphs.asked_tokens import ask_tokens
from compression.graphs.embedding_rows import pack_word_embeddings, word_embedding_nodes
from compression.graphs.pair_sums import fit_pair_sums
from compression.graphs.shared_tables import without_shared_tables

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 18  # supported by every ONNX Runtime that is allowed, and by transformers' fusions


@dataclass(frozen=True)
class Quantization:
    """Options of int8 quantisation.

    Attributes:
        op_types: Types of the nodes whose weights are quantised.
        exclude: Names of nodes that stay in float32.
        per_channel: A scale for each output channel instead of one for each matrix.
        embedding_bits: Bits of a weight of the word embeddings, if their nodes are quantised: 8, or 4 in blocks with a scale each.
    """

    op_types: Sequence[str]
    exclude: Sequence[str]
    per_channel: bool
    embedding_bits: Literal[4, 8] = 8


class Exporter(ABC):
    """Writes ONNX graphs of encoders."""

    kind: ClassVar[str]
    opsets: ClassVar[range]
    """Opsets of ai.onnx that it can write."""

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """The package that must be installed for this exporter; empty if none."""

    def write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int = OPSET) -> None:
        """Writes the graph of a network: int64 inputs [rows, tokens], float32 output `logits`, both dimensions dynamic.

        Args:
            model: In inference mode, float32, eager attention; layers may differ in heads and units. If it can be asked about some
                tokens, the graph has to be told which (input `asked`).
            path: The file to write, weights included.
            fuse: Whether to fuse nodes into ONNX Runtime's own (Attention, EmbedLayerNormalization, Gelu).
            opset: Opset of ai.onnx, one of `opsets`.
        """
        self._write(model, path, fuse=fuse, opset=opset)
        if takes_asked(model):
            ask_tokens(path, model)

    @abstractmethod
    def _write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int) -> None:
        """Writes the graph of a network that is asked about all tokens."""

    def quantize(self, source: Path, target: Path, options: Quantization) -> None:
        """Writes the graph with int8 weights; activations are quantised at run time (dynamic quantisation).

        No pair of products exceeds 16 bits, so that every CPU gives the same answers at its full speed.
        """
        nodes = word_embedding_nodes(source) if options.embedding_bits == 4 else []
        packed = [name for name in nodes if name not in options.exclude]
        options = dataclasses.replace(options, exclude=[*options.exclude, *packed])
        with without_shared_tables(source) as untied:
            self._quantize(untied, target, options)
            fit_pair_sums(target, untied)
        if packed:
            pack_word_embeddings(target, packed)

    def _quantize(self, source: Path, target: Path, options: Quantization) -> None:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        graph = onnx.load(str(source))
        del graph.graph.value_info[:]  # transformers' fusions leave shapes of removed nodes
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=list(options.op_types),
            nodes_to_exclude=list(options.exclude),
            per_channel=options.per_channel,
            weight_type=QuantType.QInt8,
            # Nodes of com.microsoft have no shape inference; without a default type the quantiser refuses fused graphs.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
