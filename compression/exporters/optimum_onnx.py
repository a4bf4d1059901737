"""Export, fusion and quantisation by optimum-onnx, which needs an environment of its own."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from compression.exporters.base import Exporter, Quantization
from compression.graphs.fusion import correct_heads, join_heads, unfuse_slow_nodes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TASKS = {
    "ForTokenClassification": "token-classification", "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering", "ForMaskedLM": "fill-mask",
}  # fmt: skip


class OptimumExporter(Exporter):
    """optimum-onnx: onnx_export_from_model, ORTOptimizer, ORTQuantizer."""

    kind: ClassVar[str] = "optimum"
    opsets: ClassVar[range] = range(14, 21)

    @classmethod
    def missing(cls) -> str:
        """optimum-onnx needs transformers below 4.58."""
        found = importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.exporters.onnx")
        return "" if found else "optimum-onnx (`make test-optimum` sets up its environment)"

    def _write(self, model: PreTrainedModel, path: Path, *, fuse: bool, opset: int) -> None:
        """Exports the network in memory, so that slimmed layers are kept, then fuses."""
        from optimum.exporters.onnx import onnx_export_from_model
        from optimum.utils import logging

        logging.set_verbosity_error()
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            onnx_export_from_model(model, output=scratch, task=_task(model), do_validation=False, opset=opset)
            written = Path(scratch) / "model.onnx"
            if fuse:
                written = _fuse(model, written)
            written.rename(path)
        join_heads(path)
        if fuse:
            correct_heads(path, model)
            unfuse_slow_nodes(path)

    def _quantize(self, source: Path, target: Path, options: Quantization) -> None:
        from onnxruntime.quantization import QuantFormat, QuantizationMode
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import QuantizationConfig

        config = QuantizationConfig(
            is_static=False,
            format=QuantFormat.QOperator,
            mode=QuantizationMode.IntegerOps,
            per_channel=options.per_channel,
            nodes_to_exclude=list(options.exclude),
            operators_to_quantize=list(options.op_types),
        )
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            typed = _with_types(source, Path(scratch) / "typed.onnx")
            ORTQuantizer(typed).quantize(config, save_dir=scratch, file_suffix="int8")
            (Path(scratch) / "typed_int8.onnx").rename(target)


def _task(model: PreTrainedModel) -> str:
    return next(task for suffix, task in _TASKS.items() if type(model).__name__.endswith(suffix))


def _fuse(model: PreTrainedModel, path: Path) -> Path:
    from optimum.onnxruntime import ORTOptimizer
    from optimum.onnxruntime.configuration import OptimizationConfig

    config = OptimizationConfig(optimization_level=1)
    ORTOptimizer([path], config=model.config).optimize(config, save_dir=path.parent, file_suffix="fused")
    return path.with_name("model_fused.onnx")


def _with_types(source: Path, target: Path) -> Path:
    """Records the type of every value: ORTQuantizer has no default type and stops at fused nodes without one."""
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(str(source)), auto_merge=True), str(target))
    return target
