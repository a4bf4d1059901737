"""The step export: removes zeroed structure, writes ONNX graphs and compares their logits with PyTorch's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from agent.errors import AgentError, ConfigError, ExportError, one_line
from cluster.progress import timed_bar
from compression.encoder.torch_model import quiet, torch_forward
from compression.exporters import EXPORTERS, OPSET, Exporter
from compression.graphs.onnx_graph import check_graph, probes, require_opset, require_parity
from compression.state.pipeline_state import Graph, PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression.graphs.half_precision import Half

FILE = "model.onnx"
_BFLOAT16_OPSET = 17


class ExportStep(BaseStep):
    """Writes `model.onnx`, float32, dynamic in rows and tokens; for GPUs also `model.fp16.onnx` and `model.bf16.onnx`."""

    position: ClassVar[int] = 20
    kind: Literal["export"] = "export"
    exporter: str = Field(
        "auto", description="optimum, transformers, torchscript; auto: optimum where installed, else the faster one"
    )
    fuse: bool = Field(True, description="fuse nodes into ONNX Runtime's own (Attention, EmbedLayerNormalization ...)")
    tolerance: float = Field(1e-3, gt=0, description="largest difference of any logit from PyTorch's")
    opset: int = Field(OPSET, ge=14, description="of ai.onnx")
    fp16: bool = Field(False, description="write a float16 graph for CUDA and TensorRT too")
    fp16_tolerance: float = Field(0.1, gt=0, description="as tolerance, for the float16 graph")
    bf16: bool = Field(False, description="write a bfloat16 graph for CUDA and TensorRT too")
    bf16_tolerance: float = Field(0.5, gt=0, description="as tolerance, for the bfloat16 graph, emulated")

    @field_validator("exporter")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in ("auto", *EXPORTERS):
            raise ValueError(f"allowed: auto, {', '.join(EXPORTERS)}")
        return kind

    def check(self) -> None:
        """Refuses, before work starts, an exporter that is not there and an opset that it or the runtime lacks.

        Raises:
            ConfigError: Names what must be installed, or the opset.
        """
        if self.exporter != "auto" and (missing := EXPORTERS[self.exporter].missing()):
            raise ConfigError(
                f"exporter {self.exporter!r} needs {missing}",
                allowed=", ".join(["auto", *(kind for kind, found in EXPORTERS.items() if not found.missing())]),
                remedy="install it or choose another",
            )
        chosen = EXPORTERS if self.exporter == "auto" else {self.exporter: EXPORTERS[self.exporter]}
        for kind, exporter in chosen.items():
            if self.opset not in exporter.opsets and not exporter.missing():
                raise ConfigError(
                    f"export.opset={self.opset}, which exporter {kind!r} does not write",
                    allowed=f"{exporter.opsets[0]} to {exporter.opsets[-1]}",
                    remedy="change opset, or the exporter",
                )
        require_opset(self.opset)
        if self.bf16 and self.opset < _BFLOAT16_OPSET:
            raise ConfigError(
                f"export.opset={self.opset} and bf16=true",
                allowed=f"at least {_BFLOAT16_OPSET} with bf16, which needs LayerNormalization",
                remedy="raise opset or leave bf16 out",
            )

    def extra_cache_inputs(self, following: Sequence[Any]) -> Any:
        """With `auto` exporters are timed on the graph that step quantize will make."""
        timed = self.exporter == "auto" and EXPORTERS["optimum"].missing()
        return [step.model_dump(mode="json") for step in following if step.kind == "quantize"] if timed else None

    def run(self, state: PipelineState) -> None:
        """Slims the network, exports it, checks the graph and compares logits.

        Raises:
            ExportError: No exporter wrote a valid graph that agrees with PyTorch.
        """
        from compression.encoder.structural_pruning import num_parameters, slim

        self.check()
        slimmed = slim(state.model)
        state.parameters = num_parameters(slimmed)
        target = state.directory / FILE
        if self.exporter != "auto":
            state.exporter = EXPORTERS[self.exporter]()
            summary = self._write(state.exporter, slimmed, target, state)
        elif not EXPORTERS["optimum"].missing():
            state.exporter = EXPORTERS["optimum"]()
            summary = self._write(state.exporter, slimmed, target, state) + " (auto: optimum is installed)"
        else:
            state.exporter, summary = self._fastest(slimmed, target, state)
        state.graphs.append(Graph(target, "fp32", check_graph(target), state.exporter.kind))
        if self.bf16:  # before fp16: of two graphs for the same hardware the last listed is served
            summary += f"; bfloat16, emulated, {self._write_half(state, target, 'bf16', self.bf16_tolerance):.1e}"
        if self.fp16:
            summary += f"; float16 {self._write_half(state, target, 'fp16', self.fp16_tolerance):.1e}"
        state.note(f"export: {summary}")

    def _write_half(self, state: PipelineState, source: Path, precision: Half, tolerance: float) -> float:
        """Adds the graph in half precision; returns the largest difference of its logits from PyTorch's."""
        from compression.graphs.half_precision import write_half

        assert state.exporter is not None
        target = state.directory / f"model.{precision}.onnx"
        with timed_bar(f"export: {precision}"), quiet():
            write_half(source, target, precision)
            inputs = check_graph(target, precision)
            batches = probes(state.model.config.vocab_size, state.bundle.manifest.max_tokens, state.seed)
            gap = require_parity(
                torch_forward(state.model), target, batches=batches, tolerance=tolerance, precision=precision
            )
        state.graphs.append(Graph(target, precision, inputs, state.exporter.kind))
        return gap

    def _write(self, exporter: Exporter, model: PreTrainedModel, target: Path, state: PipelineState) -> str:
        """Writes and checks one graph; returns a summary for the report."""
        with timed_bar(f"export: {exporter.kind}"), quiet():
            try:
                exporter.write(model, target, fuse=self.fuse, opset=self.opset)
            except Exception as error:  # exporters raise whatever their libraries do
                raise ExportError(
                    f"exporter {exporter.kind} failed ({type(error).__name__}: {one_line(error)})",
                    remedy="choose another exporter",
                ) from error
            check_graph(target)
            batches = probes(model.config.vocab_size, state.bundle.manifest.max_tokens, state.seed)
            # Against the zeroed network, not the slimmed one, so that slimming is checked together with the export.
            gap = require_parity(torch_forward(state.model), target, batches=batches, tolerance=self.tolerance)
        return f"{exporter.kind}, largest difference of logits {gap:.1e}"

    def _fastest(self, model: PreTrainedModel, target: Path, state: PipelineState) -> tuple[Exporter, str]:
        """Writes with every installed exporter, times the graphs that would be served and keeps the fastest."""
        from compression.measurement.exporter_benchmark import served_seconds

        quantize = next((step for step in state.steps if step.kind == "quantize"), None)
        notes: list[str] = []
        best: tuple[float, Exporter, str] | None = None
        with tempfile.TemporaryDirectory(dir=state.directory) as scratch:
            for kind in [kind for kind, found in EXPORTERS.items() if not found.missing()]:
                exporter, path = EXPORTERS[kind](), Path(scratch) / f"{kind}.onnx"
                try:
                    summary = self._write(exporter, model, path, state)
                except AgentError as error:
                    notes.append(f"{kind} left out: {error.what}")
                    continue
                seconds = served_seconds(exporter, path, state, quantize and quantize.quantization(path))
                notes.append(f"{kind} {seconds * 1e3:.1f} ms")
                if best is None or seconds < best[0]:
                    best = seconds, exporter, summary
                    path.replace(target)
        if best is None:
            raise ExportError(
                "no exporter succeeded: " + "; ".join(notes), remedy="leave out steps or report the model"
            )
        return best[1], f"{best[2]} (auto: the fastest of {', '.join(notes)})"
