"""What every exporter does: a network in, an ONNX graph of float32 or int8 out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 18  # old enough for every ONNX Runtime that we allow, new enough for transformers' fusions


@dataclass(frozen=True)
class Quantization:
    """How weights become int8.

    Attributes:
        op_types: Kinds of nodes whose weights are quantised.
        exclude: Names of nodes that stay in float32.
        per_channel: A scale for each output channel instead of one for each matrix.
    """

    op_types: Sequence[str]
    exclude: Sequence[str]
    per_channel: bool


class Exporter(ABC):
    """Writes ONNX graphs of encoders."""

    kind: ClassVar[str]
    opsets: ClassVar[range]
    """Those of ai.onnx that it can write."""

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """What must be installed before this exporter works here; empty if nothing."""

    @abstractmethod
    def write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int = OPSET) -> None:
        """Writes the graph of a network: int64 inputs [rows, tokens], float32 output `logits`, both sizes dynamic.

        Args:
            model: In inference mode, float32, eager attention; layers may differ in heads and units.
            path: The file to write, weights included.
            fuse: Whether to fuse nodes into ONNX Runtime's own (Attention, EmbedLayerNormalization, Gelu).
            opset: Of ai.onnx; one of `opsets`.
        """

    def quantize(self, source: Path, target: Path, how: Quantization) -> None:
        """Writes the graph with int8 weights; activations are quantised while it runs (dynamic quantisation)."""
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        graph = onnx.load(str(source))
        del graph.graph.value_info[:]  # transformers' fusions leave shapes of nodes that are gone
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=list(how.op_types),
            nodes_to_exclude=list(how.exclude),
            per_channel=how.per_channel,
            weight_type=QuantType.QInt8,
            # Nodes of com.microsoft have no shape inference; without the type the quantiser gives up on fused graphs.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
