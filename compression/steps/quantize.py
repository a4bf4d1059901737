"""Dynamic int8: weights become integers now, activations while the graph runs."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from agent.errors import ConfigError, ExportError
from compression.bars import bar
from compression.exporters import Quantization
from compression.graph import check_graph
from compression.state import Graph, State
from compression.steps.base import BaseStep
from compression.torch_model import quiet

FILE = "model.int8.onnx"
_PRODUCTS = ("MatMul", "Gemm", "Attention")
_EMBEDDINGS = ("Gather", "EmbedLayerNormalization")


class QuantizeStep(BaseStep):
    """Writes `model.int8.onnx` from the float32 graph."""

    place: ClassVar[int] = 30
    kind: Literal["quantize"] = "quantize"
    per_channel: bool = Field(True, description="a scale for each output channel instead of one for each matrix")
    embeddings: bool = Field(True, description="quantise the embedding tables too")
    exclude: tuple[str, ...] = Field((), description="nodes that stay in float32, as patterns over their names")
    keep_fp32: bool = Field(True, description="publish the float32 graph beside the int8 one")

    def options(self, source: Path) -> Quantization:
        """Resolves the patterns against the nodes of a graph.

        Raises:
            ConfigError: A pattern fits no node.
        """
        import onnx

        kinds = (*_PRODUCTS, *(_EMBEDDINGS if self.embeddings else ()))
        nodes = onnx.load(str(source), load_external_data=False).graph.node
        names = [node.name for node in nodes if node.op_type in kinds]
        excluded = {pattern: fnmatch.filter(names, pattern) for pattern in self.exclude}
        if unused := [pattern for pattern, found in excluded.items() if not found]:
            raise ConfigError(
                f"quantize.exclude={unused[0]!r} fits no node that would be quantised",
                allowed=", ".join(names[:40]),
                remedy="mend the pattern",
            )
        return Quantization(kinds, sorted({name for found in excluded.values() for name in found}), self.per_channel)

    def run(self, state: State) -> None:
        """Quantises the graph that was exported.

        Raises:
            ExportError: The quantiser fails or its graph is not valid.
        """
        source, exporter = state.graphs[-1], state.exporter
        assert exporter is not None
        target = state.directory / FILE
        how = self.options(source.path)
        with bar("quantize: dynamic int8"), quiet():
            try:
                exporter.quantize(source.path, target, how)
            except Exception as error:  # quantisers raise whatever their libraries do
                raise ExportError(
                    f"int8 by {exporter.kind} failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
                    remedy="leave the step out or choose another exporter",
                ) from error
            inputs = check_graph(target)
        state.graphs[-1] = dataclasses.replace(source, published=self.keep_fp32)
        state.graphs.append(Graph(target, "int8", inputs, exporter.kind))
        scope = "weights and embeddings" if self.embeddings else "weights"
        scales = "a scale per channel" if self.per_channel else "a scale per matrix"
        state.note(f"quantize: {scope} in int8, {scales}, {len(how.exclude)} nodes left in float32")
