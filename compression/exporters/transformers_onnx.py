"""Export by transformers' own exporter (5.x; experimental there), with its fusions for ONNX Runtime on CPUs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compression.encoder.torch_model import to_tensors
from compression.exporters.base import Exporter
from compression.graphs.fusion import join_heads, tidy_graph, unfuse_slow_nodes
from compression.graphs.onnx_graph import probes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersExporter(Exporter):
    """Exports every architecture of transformers."""

    kind: ClassVar[str] = "transformers"
    opsets: ClassVar[range] = range(18, 24)

    @classmethod
    def missing(cls) -> str:
        """`transformers.exporters` exists since version 5 and needs onnxscript."""
        if importlib.util.find_spec("transformers.exporters") is None:
            return "transformers>=5.23"
        return "" if importlib.util.find_spec("onnxscript") else "onnxscript"

    def _write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int) -> None:
        """Exports the network and writes one file.

        Eager attention would be fused into an Attention node with a bias, which ONNX Runtime cannot quantise to int8; sdpa
        attention stays separate matrix products.
        """
        import onnx_ir
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        inputs = to_tensors(model, probes(model.config.vocab_size, 16, seed=0)[2])
        config = OnnxConfig(dynamic=True, opset_version=opset, ort_fusions="cpu" if fuse else None)
        model.set_attn_implementation("sdpa")
        try:
            onnx_ir.save(OnnxExporter().export(model, inputs, config=config).program, str(path))
        finally:
            model.set_attn_implementation("eager")
        tidy_graph(path)
        join_heads(path)
        if fuse:
            unfuse_slow_nodes(path)
