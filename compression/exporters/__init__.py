"""Exporters to ONNX. Adding one is one file here and one line in the table below."""

from compression.exporters.base import OPSET, Exporter, Quantization
from compression.exporters.optimum_onnx import OptimumExporter
from compression.exporters.torchscript import TorchScriptExporter
from compression.exporters.transformers_onnx import TransformersExporter

EXPORTERS: dict[str, type[Exporter]] = {
    exporter.kind: exporter for exporter in (OptimumExporter, TransformersExporter, TorchScriptExporter)
}

__all__ = ["EXPORTERS", "OPSET", "Exporter", "Quantization"]
