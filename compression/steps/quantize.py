"""The step quantize: writes a graph with int8 or int4 weights, as configured or as is fastest on this machine."""

from __future__ import annotations

import dataclasses
import fnmatch
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from agent.errors import AgentError, ConfigError, ExportError, one_line
from compression.exporters import Exporter, Quantization
from compression.graphs.embedding_rows import word_embedding_nodes
from compression.graphs.onnx_graph import check_graph
from compression.state.pipeline_state import Graph, PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from agent.bundle import Precision

_PRODUCTS = ("MatMul", "Gemm", "Attention")
_EMBEDDINGS = ("Gather", "EmbedLayerNormalization")
Method = Literal["min_max", "entropy", "percentile"]
_AUTO_VARIANTS: tuple[tuple[str, Method], ...] = (
    ("dynamic", "min_max"), ("static", "min_max"), ("static", "entropy"), ("static", "percentile"), ("int4", "min_max"),
)  # fmt: skip
_CHOSEN = "quantize.chosen"  # key in `step_outputs`: the variant that was written, and how its ranges were found
_SCAN_EXAMPLES = 64  # dev examples on which the sensitivity of nodes is measured


class QuantizeStep(BaseStep):
    """Writes `model.int8.onnx`, or `model.int4.onnx`, from the float32 graph.

    With `static` the scales of activations come from calibration sentences. With `dynamic` they come from each batch, so that a
    prediction can depend on the other texts in the batch. `auto` measures all variants on this machine.
    """

    position: ClassVar[int] = 30
    kind: Literal["quantize"] = "quantize"
    variant: Literal["dynamic", "static", "int4", "auto"] = Field(
        "static", description="how; auto: the fastest that is good"
    )
    per_channel: bool = Field(True, description="a scale for each output channel instead of one for each matrix")
    embeddings: bool = Field(True, description="quantise the embedding tables too")
    embedding_bits: Literal[4, 8] = Field(
        8,
        description="bits of a weight of the word embeddings; 4: in blocks of 32 with a scale each, 5 bits in all",
    )
    exclude: tuple[str, ...] = Field((), description="nodes that stay in float32, as patterns over their names")
    max_error: float | None = Field(
        None, gt=0, description="nodes that int8 hurts most stay in float32 too, until logits of the dev split differ by no more (root mean square, relative)"
    )  # fmt: skip
    calibration: Method = Field("percentile", description="static: how ranges are found")
    percentile: float = Field(
        99.99, gt=50, le=100, description="static: part of the values inside the range, in percent"
    )
    num_calibration: int = Field(256, ge=1, description="static: training examples that are watched")
    max_calibration_tokens: int | None = Field(
        None, ge=3, description="static: longer texts are not watched; default: 64, or as many as the shortest has"
    )
    dev_score_kept: float = Field(
        0.99, ge=0, le=1, description="auto: part of the float32 graph's dev score that a variant must keep"
    )
    keep_fp32: bool = Field(True, description="publish the float32 graph beside the small one")

    @model_validator(mode="after")
    def _has_embeddings(self) -> Self:
        if self.embedding_bits == 4 and not self.embeddings:
            raise ValueError("embedding_bits=4 needs embeddings=true: with false the tables stay in float32")
        return self

    def quantization(self, source: Path) -> Quantization:
        """The options for a graph, `exclude` resolved to names of its nodes.

        Raises:
            ConfigError: A pattern fits no node, or `embedding_bits` finds no table of word embeddings.
        """
        names = self._nodes(source)
        excluded = {pattern: fnmatch.filter(names, pattern) for pattern in self.exclude}
        if unused := [pattern for pattern, found in excluded.items() if not found]:
            raise ConfigError(
                f"quantize.exclude={unused[0]!r} fits no node that would be quantised",
                allowed=", ".join(names[:40]),
                remedy="mend the pattern",
            )
        if self.embedding_bits == 4 and not word_embedding_nodes(source):
            raise ConfigError(
                f"quantize.embedding_bits=4, but no node of {source.name} looks up a float32 row for each of input_ids",
                allowed="8",
                remedy="leave embedding_bits out, or choose another exporter",
            )
        names_left = sorted({name for found in excluded.values() for name in found})
        return Quantization(self._kinds(), names_left, self.per_channel, self.embedding_bits)

    def run(self, state: PipelineState) -> None:
        """Quantises the exported float32 graph.

        Raises:
            ConfigError: No calibration text is short enough.
            ExportError: The quantiser fails, its graph is not valid, an activation is not finite, or with `auto` every variant
                loses too much of the score.
        """
        place, source = next((at, graph) for at, graph in enumerate(state.graphs) if graph.precision == "fp32")
        exporter = state.exporter
        assert exporter is not None
        job = _QuantizationJob(state, exporter, source.path, self.quantization(source.path))
        job, scanned = self._without_sensitive_nodes(job)
        if self.variant == "auto":
            precision, target, chosen = self._fastest(job)
        else:
            precision = "int4" if self.variant == "int4" else "int8"
            target = state.directory / f"model.{precision}.onnx"
            chosen = self._write(job, target, self.variant, self.calibration)
            state.step_outputs[_CHOSEN] = [self.variant, self.calibration]
        state.graphs[place] = dataclasses.replace(source, published=self.keep_fp32)
        state.graphs.append(Graph(target, precision, check_graph(target), exporter.kind, pairs_fit=True))
        scope = "weights and embeddings" if self.embeddings else "weights"
        scope += " (those of words in 4 bits)" if self.embedding_bits == 4 else ""
        scales = "a scale per channel" if self.per_channel else "a scale per matrix"
        left = f"{len(job.options.exclude)} nodes left in float32{scanned}"
        state.note(f"quantize: {chosen}; {scope}, {scales}, {left}")

    def write_like(self, state: PipelineState, source: Path, target: Path) -> None:
        """Writes another float32 graph of the agent as this step wrote its own, once it has run; nodes that a scan left in float32 are not looked for.

        Raises:
            ConfigError, ExportError: As `run`.
        """
        assert state.exporter is not None
        variant, method = state.step_outputs[_CHOSEN]
        self._write(_QuantizationJob(state, state.exporter, source, self.quantization(source)), target, variant, method)

    def _kinds(self) -> tuple[str, ...]:
        return (*_PRODUCTS, *(_EMBEDDINGS if self.embeddings else ()))

    def _nodes(self, source: Path) -> list[str]:
        import onnx

        nodes = onnx.load(str(source), load_external_data=False).graph.node
        return [node.name for node in nodes if node.op_type in self._kinds()]

    def _without_sensitive_nodes(self, job: _QuantizationJob) -> tuple[_QuantizationJob, str]:
        """Excludes nodes until `max_error` holds; returns the new job and a summary."""
        from compression.encoder.input_statistics import batches_of
        from compression.quantization.sensitivity import find_exclusions

        if self.max_error is None:
            return job, ""
        state, options = job.state, job.options
        batches = batches_of(state.windows(state.splits.dev[:_SCAN_EXAMPLES]), state.encoder.pad_id)

        def quantize(target: Path, excluded: Sequence[str]) -> None:
            job.exporter.quantize(
                job.source, target, dataclasses.replace(options, exclude=[*options.exclude, *excluded])
            )

        nodes = [name for name in self._nodes(job.source) if name not in options.exclude]
        added, error = find_exclusions(quantize, job.source, nodes, batches=batches, max_error=self.max_error)
        summary = f", of them by the scan {', '.join(added) or 'none'} (logits differ by {error:.2%})"
        return job._replace(options=dataclasses.replace(options, exclude=[*options.exclude, *added])), summary

    def _write(self, job: _QuantizationJob, target: Path, variant: str, method: Method) -> str:
        """Writes one variant; returns its name in the report."""
        from compression.quantization import quantizers
        from compression.quantization.activation_ranges import CalibrationRule

        state, exporter, source, options = job
        try:
            if variant == "int4":
                quantizers.write_int4(exporter, source, target, options)
                return "int4 products"
            quantizers.write_dynamic(exporter, source, target, options)
            if variant == "dynamic":
                return "dynamic int8"
            batches = quantizers.calibration_batches(state, self.num_calibration, self.max_calibration_tokens)
            quantizers.write_static(target, source, target, batches, CalibrationRule(method, self.percentile))
        except AgentError:
            raise
        except Exception as error:  # quantisers raise whatever their libraries do
            raise ExportError(
                f"int8 or int4 by {exporter.kind} failed ({type(error).__name__}: {one_line(error)})",
                remedy="leave the step out or choose another variant or exporter",
            ) from error
        return f"static int8 ({method})"

    def _fastest(self, job: _QuantizationJob) -> tuple[Precision, Path, str]:
        """Writes all variants, scores them on the dev split and keeps the fastest that keeps enough of the score."""
        from compression.graphs.onnx_graph import graph_forward, open_session
        from compression.measurement.exporter_benchmark import interleaved_seconds

        state = job.state
        with tempfile.TemporaryDirectory(dir=state.directory) as scratch:
            paths: dict[str, Path] = {}
            for number, (variant, method) in enumerate(_AUTO_VARIANTS):
                path = Path(scratch) / f"{number}.onnx"
                paths[self._write(job, path, variant, method)] = path
            needed = self.dev_score_kept * _dev_score(state, job.source)
            scores = {name: _dev_score(state, path) for name, path in paths.items()}
            good = {name: paths[name] for name, score in scores.items() if score >= needed}
            if not good:
                raise ExportError(
                    f"quantize: no variant keeps the needed dev score of {needed:.4f}: {_listed(scores, '.4f')}",
                    remedy="give max_error, leave out embeddings, lower dev_score_kept, or leave the step out",
                )
            forwards = {name: graph_forward(open_session(path, state.threads)) for name, path in good.items()}
            seconds = interleaved_seconds(forwards, state)
            best = min(seconds, key=seconds.__getitem__)
            precision: Precision = "int4" if "int4" in best else "int8"
            state.step_outputs[_CHOSEN] = list(_AUTO_VARIANTS[list(paths).index(best)])
            target = good[best].replace(state.directory / f"model.{precision}.onnx")
        times = {name: value * 1e3 for name, value in seconds.items()}
        return precision, target, f"{best} (auto: dev score {_listed(scores, '.4f')}; ms {_listed(times, '.1f')})"


class _QuantizationJob(NamedTuple):
    """A graph to quantise."""

    state: PipelineState
    exporter: Exporter
    source: Path
    options: Quantization


def _dev_score(state: PipelineState, path: Path) -> float:
    from agent.evaluation import evaluate
    from compression.graphs.onnx_graph import graph_forward, open_session

    forward = graph_forward(open_session(path, state.threads))
    return evaluate(state.bundle.task, state.encoder, state.splits.dev, forward).value


def _listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())
