"""Optimum as exporter, in its own environment: export, ORTOptimizer and ORTQuantizer of an agent that is then served."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.evaluation import Forward, predict
from compression.encoder.torch_model import load_directory, torch_forward
from compression.graphs.onnx_graph import graph_forward, largest_difference, open_session, probes
from compression.reporting.compression_report import CompressionReport
from tests.compression.pipeline.test_pipeline import check, run

pytestmark = [
    pytest.mark.optimum,
    pytest.mark.skipif(
        not (importlib.util.find_spec("optimum") and importlib.util.find_spec("optimum.onnxruntime")),
        reason="needs the optimum extra (make test-optimum)",
    ),
]
STEPS = [{"kind": "prune", "head_ratio": 0.3, "ffn_ratio": 0.3}, {"kind": "export", "exporter": "auto"}, "quantize"]


@pytest.fixture(scope="module")
def compressed(tagger: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressionReport]:
    output = tmp_path_factory.mktemp("optimum") / "out"
    return output, run(tagger, output, STEPS)


def test_auto_takes_optimum_where_it_is_installed(compressed: tuple[Path, CompressionReport], tagger: Path) -> None:
    output, report = compressed
    bundle = check(output, report, tagger)
    assert [(variant.exporter, variant.precision) for variant in bundle.manifest.onnx] == [
        ("optimum", "fp32"),
        ("optimum", "int8"),
    ]
    assert any("auto: optimum is installed" in note for note in report.notes)
    assert "optimum" in bundle.manifest.lineage.versions


def test_optimum_fuses_attention_of_layers_with_different_heads(compressed: tuple[Path, CompressionReport]) -> None:
    nodes = list(onnx.load(compressed[0] / "model.onnx").graph.node)
    heads = [
        attribute.i
        for node in nodes
        for attribute in node.attribute
        if node.op_type == "Attention" and attribute.name == "num_heads"
    ]
    assert len(heads) == 2
    assert sum(heads) == 6
    assert {"LayerNormalization", "Gelu"} <= {node.op_type for node in nodes}


def test_ortquantizer_makes_products_and_embeddings_integer(compressed: tuple[Path, CompressionReport]) -> None:
    weights = onnx.load(compressed[0] / "model.int8.onnx").graph.initializer
    matrices = {weight.name: weight.data_type for weight in weights if len(weight.dims) == 2 and min(weight.dims) > 8}
    assert set(matrices.values()) <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}, matrices


def test_its_graph_agrees_with_torch_and_predicts_the_same(
    compressed: tuple[Path, CompressionReport], tagger: Path
) -> None:
    bundle = Bundle.load(compressed[0])
    reference = torch_forward(load_directory(compressed[0], bundle.task.architecture))
    graph = _graph(bundle, "fp32")
    vocabulary = load_directory(compressed[0], bundle.task.architecture).config.vocab_size
    gap, _ = largest_difference(reference, graph, probes(vocabulary, 48, seed=5))
    assert gap < 1e-4
    test = load_splits(DataConfig(path=str(tagger.parent / "data")), bundle.task).test
    said = [
        predict(bundle.task, bundle.encoder, test, forward) for forward in (reference, graph, _graph(bundle, "int8"))
    ]
    assert said[0] == said[1]
    words = sum(map(len, said[0]))
    same = sum(a == b for one, other in zip(said[0], said[2], strict=True) for a, b in zip(one, other, strict=True))
    assert same / words > 0.95


def test_it_is_served_like_any_other_bundle(compressed: tuple[Path, CompressionReport]) -> None:
    from serving.inference.engine import Engine, EngineConfig

    bundle = Bundle.load(compressed[0])
    engine = Engine(bundle, EngineConfig())
    text = "in oslo , acme hired anna ."
    (answer,) = engine.predict([text])
    document = bundle.encoder.encode_texts([text])[0]
    from agent.batching import pad

    logits = _graph(bundle, "auto")(pad(document.windows, bundle.encoder.pad_id))
    expected = bundle.task.answer(text, document, list(logits), bundle.task.parameters())
    assert [(item["word"], item["start"]) for item in answer] == [(item["word"], item["start"]) for item in expected]
    assert np.allclose([item["score"] for item in answer], [item["score"] for item in expected], atol=1e-5)
    assert answer


def _graph(bundle: Bundle, precision: str) -> Forward:
    return graph_forward(open_session(bundle.path / bundle.onnx_variant(precision).file, threads=1))
