"""Small graphs: answers near float32's, static ones that do not hang on company, a scan that finds the node that is hurt, auto."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batching import Batch, pad
from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.errors import ConfigError, ExportError
from compression.encoder.torch_model import load_model, quiet, torch_forward
from compression.exporters import EXPORTERS, Quantization
from compression.graphs.embedding_rows import pack_word_embeddings, word_embedding_nodes
from compression.graphs.onnx_graph import graph_forward, open_session, probes
from compression.quantization.activation_ranges import CalibrationRule, find_ranges
from compression.quantization.quantizers import write_dynamic, write_int4, write_static
from compression.quantization.sensitivity import error_of, find_exclusions
from compression.quantization.static_quantization import scaled_tensors
from compression.steps import QuantizeStep
from tests.compression.agents import SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.pipeline.test_pipeline import check, run

EXPORT = {"kind": "export", "exporter": "torchscript"}
HOW = Quantization(("MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization"), (), per_channel=True)
METHODS = ("min_max", "entropy", "percentile")
AVAILABLE = [kind for kind, exporter in EXPORTERS.items() if not exporter.missing()]


def singles(count: int, seed: int = 0) -> list[Batch]:
    """Random sentences one by one, without padding."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 300, (1, int(rng.integers(3, 30)))) for _ in range(count)]
    return [Batch(ids, np.ones_like(ids), np.zeros_like(ids)) for ids in found]


def exported(directory: Path, family: str = "bert", kind: str = "torchscript") -> tuple[Any, Path]:
    exporter, path = EXPORTERS[kind](), directory / "model.onnx"
    with quiet():
        exporter.write(tiny_model(family, TAGGER), path, fuse=True)
    return exporter, path


def forward(path: Path) -> Any:
    return graph_forward(open_session(path, threads=1))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((family, kind), marks=pytest.mark.long if kind == "transformers" else (), id=f"{family}-{kind}")
        for family, kind in [
            *(("bert", kind) for kind in AVAILABLE),
            ("distilbert", "torchscript"),
            ("roberta", "torchscript"),
        ]
    ],
)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float32 graph, and its dynamic int8 one."""
    family, kind = request.param
    exporter, path = exported(tmp_path_factory.mktemp("graphs"), family, kind)
    write_dynamic(exporter, path, path.with_name("dynamic.onnx"), HOW)
    return path, path.with_name("dynamic.onnx")


@pytest.mark.parametrize("method", METHODS)
def test_a_static_graph_answers_near_float32_and_whatever_the_company(
    graphs: tuple[Path, Path], tmp_path: Path, method: Any
) -> None:
    source, dynamic = graphs
    target = tmp_path / "static.onnx"
    write_static(dynamic, source, target, singles(40), CalibrationRule(method))
    batches = singles(10, seed=1)
    error = error_of(forward(source), forward(target), batches)
    assert error < max(0.1, 2 * error_of(forward(source), forward(dynamic), batches))
    alone = [forward(target)(batch)[0] for batch in batches]
    together = forward(target)(_joined(batches))
    for row, (batch, said) in enumerate(zip(batches, alone, strict=True)):
        assert np.abs(together[row, : batch.input_ids.shape[1]] - said).max() < 1e-5
    assert not scaled_tensors(target)
    kinds = [node.op_type for node in onnx.load(target).graph.node]
    assert "MatMulInteger" not in kinds
    assert "MatMulIntegerToFloat" in kinds


def test_words_in_4_bits_leave_the_rest_as_near_as_int8_does(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    source, dynamic = graphs
    packed, target = tmp_path / "packed.onnx", tmp_path / "static.onnx"
    packed.write_bytes(source.read_bytes())
    pack_word_embeddings(packed, word_embedding_nodes(packed))
    write_dynamic(EXPORTERS["torchscript"](), source, target, dataclasses.replace(HOW, embedding_bits=4))
    write_static(target, source, target, singles(40), CalibrationRule("percentile"))
    batches = singles(10, seed=1)
    usual = error_of(forward(source), forward(dynamic), batches)
    assert error_of(forward(packed), forward(target), batches) < max(0.1, 2 * usual)
    assert not word_embedding_nodes(target)
    assert not scaled_tensors(target)


def _joined(batches: list[Batch]) -> Batch:
    length = max(batch.input_ids.shape[1] for batch in batches)
    ids = np.zeros((len(batches), length), np.int64)
    mask = np.zeros_like(ids)
    for row, batch in enumerate(batches):
        ids[row, : batch.input_ids.shape[1]] = batch.input_ids[0]
        mask[row, : batch.input_ids.shape[1]] = 1
    return Batch(ids, mask, np.zeros_like(ids))


def test_ranges_hold_what_was_seen(graphs: tuple[Path, Path]) -> None:
    source, dynamic = graphs
    tensors = scaled_tensors(dynamic)
    found = {
        method: find_ranges(source, tensors, singles(20), rule=CalibrationRule(method), progress=lambda *_: None)
        for method in METHODS
    }
    for name in tensors:
        low, high = found["min_max"][name]
        assert low < high
        for method in ("entropy", "percentile"):
            inner = found[method][name]
            assert inner[0] < inner[1]
            assert inner[1] - inner[0] <= 2.05 * max(abs(low), abs(high))


def test_an_activation_that_is_not_finite_is_an_error_with_its_node(tmp_path: Path) -> None:
    exporter, path = exported(tmp_path)
    write_dynamic(exporter, path, tmp_path / "dynamic.onnx", HOW)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    biased = next(one for one in model.graph.node if one.output[0] == node.input[0])
    bias = next(one for one in model.graph.initializer if one.name in biased.input)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = np.inf
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    with pytest.raises(ExportError, match=f"node {node.name} of model.onnx gives (infinite values|NaN)"):
        write_static(tmp_path / "dynamic.onnx", path, tmp_path / "static.onnx", singles(3), CalibrationRule("min_max"))
    assert not list(tmp_path.glob("*watched*"))


@pytest.mark.parametrize("family", SHAPES)
def test_int4_products_answer_near_float32(family: str, tmp_path: Path) -> None:
    exporter, path = exported(tmp_path, family)
    write_int4(exporter, path, tmp_path / "int4.onnx", HOW)
    assert error_of(forward(path), forward(tmp_path / "int4.onnx"), probes(300, 40, seed=2)) < 0.5
    assert any(node.op_type == "MatMulNBits" for node in onnx.load(tmp_path / "int4.onnx").graph.node)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An exporter and a float32 graph of it that no test changes."""
    return exported(tmp_path_factory.mktemp("plain"))


@settings(max_examples=5, deadline=None)
@given(worst=st.integers(0, 5))
def test_the_scan_leaves_out_the_node_that_int8_hurts(
    worst: int, plain: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("scan")
    exporter, source = plain
    path = directory / "model.onnx"
    model = onnx.load(source)
    nodes = [node for node in model.graph.node if node.op_type == "MatMul"]
    hurt = nodes[worst]
    weight = next(one for one in model.graph.initializer if one.name == hurt.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 300  # one input dwarfs the others in every channel
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    names = [node.name for node in nodes]

    def quantize(target: Path, excluded: Any) -> None:
        exporter.quantize(path, target, Quantization(("MatMul",), list(excluded), per_channel=True))

    batches = probes(300, 30, seed=3)
    quantize(directory / "all.onnx", [])
    whole = error_of(forward(path), forward(directory / "all.onnx"), batches)
    excluded, error = find_exclusions(quantize, path, names, batches=batches, max_error=whole / 3)
    assert hurt.name in excluded
    assert error <= whole / 3
    assert find_exclusions(quantize, path, names, batches=batches, max_error=10.0)[0] == []


@pytest.mark.parametrize("step", [
    {"variant": "static", "embedding_bits": 4}, {"variant": "static", "calibration": "entropy", "embeddings": False},
    {"variant": "int4", "keep_fp32": False}, {"variant": "dynamic", "max_error": 0.0001},
])  # fmt: skip
def test_every_variant_gives_a_bundle(tagger: Path, tmp_path: Path, step: dict[str, Any]) -> None:
    report = run(tagger, tmp_path / "out", [EXPORT, {"kind": "quantize", **step}])
    bundle = check(tmp_path / "out", report, tagger)
    assert bundle.onnx_variant().precision == ("int4" if step["variant"] == "int4" else "int8")
    said = next(note for note in report.notes if note.startswith("quantize:"))
    assert {"static": "static int8", "int4": "int4 products", "dynamic": "by the scan"}[step["variant"]] in said
    assert ("those of words in 4 bits" in said) == ("embedding_bits" in step)


def test_auto_measures_all_and_keeps_the_fastest_that_is_good(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", [EXPORT, {"kind": "quantize", "variant": "auto", "dev_score_kept": 0.5}])
    check(tmp_path / "out", report, tagger)
    said = next(note for note in report.notes if note.startswith("quantize:"))
    for name in ("dynamic int8", *(f"static int8 ({method})" for method in METHODS), "int4 products"):
        assert name in said
    assert sorted(file.name for file in (tmp_path / "out").glob("*.onnx"))[-1] == "model.onnx"


def test_words_in_4_bits_beside_tables_in_float32_are_refused() -> None:
    with pytest.raises(ConfigError, match="embedding_bits=4 needs embeddings=true"):
        from_mapping(QuantizeStep, {"embedding_bits": 4, "embeddings": False})


def test_texts_that_are_all_too_long_are_refused(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"max_calibration_tokens=3, but the shortest calibration text has \d+ tokens"
    ):
        run(tagger, tmp_path / "out", [EXPORT, {"kind": "quantize", "variant": "static", "max_calibration_tokens": 3}])
    assert not (tmp_path / "out").exists()


def test_long_texts_and_a_single_one_are_enough_to_calibrate(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "compression.quantization.quantizers._CALIBRATION_TOKENS", 3
    )  # shorter than any text, as 64 may be elsewhere
    report = run(
        tagger, tmp_path / "out", [EXPORT, {"kind": "quantize", "num_calibration": 1}], gate={"min_score_kept": 0.0}
    )
    check(tmp_path / "out", report, tagger)
    assert any(note.startswith("quantize: static int8 (percentile)") for note in report.notes)


def test_a_served_agent_gives_a_text_the_same_answer_in_any_batch(tagger: Path, tmp_path: Path) -> None:
    run(tagger, tmp_path / "out", [EXPORT, "quantize"])
    bundle = Bundle.load(tmp_path / "out")
    texts = ["in oslo , acme hired anna .", "nothing happened today .", "bruno went to lima ."]
    windows = [document.windows[0] for document in bundle.encoder.encode_texts(texts)]
    said = forward(bundle.path / bundle.onnx_variant().file)
    together = said(pad(windows, bundle.encoder.pad_id))
    for row, window in enumerate(windows):
        alone = said(pad([window], bundle.encoder.pad_id))[0]
        assert np.abs(together[row, : len(window.input_ids)] - alone).max() < 1e-5
    assert torch_forward(load_model(bundle))(pad(windows, 0)).shape == together.shape
