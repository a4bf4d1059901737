"""Export by tracing (torch.onnx.export without dynamo), then fusion by ONNX Runtime's transformers optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compression.encoder.torch_model import input_names, logits, to_tensors
from compression.exporters.base import Exporter
from compression.graphs.fusion import fuse_graph, unfuse_slow_nodes
from compression.graphs.onnx_graph import OUTPUT, probes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class TorchScriptExporter(Exporter):
    """Traces eager attention, which ONNX Runtime's optimizer fuses into its Attention."""

    kind: ClassVar[str] = "torchscript"
    opsets: ClassVar[range] = range(14, 21)

    @classmethod
    def missing(cls) -> str:
        """Nothing: torch and onnxruntime are enough."""
        return ""

    def _write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int) -> None:
        """Traces the network, writes the graph and fuses it."""
        import torch

        names = input_names(model)
        tensors = to_tensors(model, probes(model.config.vocab_size, 16, seed=0)[2])
        with torch.no_grad():
            torch.onnx.export(
                _wrap(model, names),
                tuple(tensors[name] for name in names),
                str(path),
                input_names=list(names),
                output_names=[OUTPUT],
                dynamic_axes={name: {0: "rows", 1: "tokens"} for name in names} | {OUTPUT: {0: "rows"}},
                opset_version=opset,
                dynamo=False,
            )
        if fuse:
            fuse_graph(path, model)
            unfuse_slow_nodes(path)


def _wrap(model: PreTrainedModel, names: tuple[str, ...]) -> nn.Module:
    """Gives the network positional inputs in a known order and a single output."""
    from torch import nn

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return logits(self.model, dict(zip(names, inputs, strict=True)))

    return Positional().eval()
