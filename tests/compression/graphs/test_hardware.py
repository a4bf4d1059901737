"""Which graph is for which hardware; half precision for GPUs; opsets that something lacks are refused before work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ConfigError
from compression.encoder.torch_model import quiet
from compression.exporters import EXPORTERS
from compression.graphs.half_precision import write_half
from compression.graphs.onnx_graph import check_graph, graph_forward, open_session, probes
from compression.quantization.sensitivity import error_of
from tests.compression.agents import SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.pipeline.test_pipeline import check, run

EXPORT = {"kind": "export", "exporter": "torchscript"}
AVAILABLE = [
    pytest.param(kind, marks=pytest.mark.long if kind == "transformers" else ())
    for kind, exporter in EXPORTERS.items()
    if not exporter.missing()
]


@pytest.mark.parametrize("exporter", AVAILABLE)
def test_a_bundle_holds_a_graph_for_each_hardware_in_the_opset_that_was_asked_for(
    tagger: Path, tmp_path: Path, exporter: str
) -> None:
    steps = [{"kind": "export", "exporter": exporter, "fp16": True, "bf16": True, "opset": 20}, "quantize"]
    report = run(tagger, tmp_path / "out", steps)
    opsets = {one.domain: one.version for one in onnx.load(tmp_path / "out/model.onnx").opset_import}
    assert opsets.get("", opsets.get("ai.onnx")) == 20
    bundle = check(tmp_path / "out", report, tagger)
    assert {one.precision: one.hardware for one in bundle.manifest.onnx} == {
        "bf16": ("cuda", "tensorrt"),
        "fp16": ("cuda", "tensorrt"),
        "fp32": ("cpu", "cuda", "tensorrt"),
        "int8": ("cpu",),
    }
    assert bundle.onnx_variant().precision == "int8"
    assert bundle.onnx_variant("auto", "tensorrt").precision == "fp16"
    assert bundle.onnx_variant("auto", "cuda").precision == "fp16"
    assert bundle.onnx_variant("fp32", "cuda").precision == "fp32"
    sizes = {one.precision: (bundle.path / one.file).stat().st_size for one in bundle.manifest.onnx}
    for half in ("fp16", "bf16"):
        weights = onnx.load(tmp_path / f"out/model.{half}.onnx").graph.initializer
        wide = [one.name for one in weights if len(one.dims) == 2 and one.data_type == onnx.TensorProto.FLOAT]
        assert not wide
        assert sizes[half] < 0.8 * sizes["fp32"]
        assert [row.name for row in report.model_rows if row.precision == half] == [f"ONNX {half}"]


def test_an_engine_on_the_cpu_takes_the_graph_for_the_cpu(tagger: Path, tmp_path: Path) -> None:
    from serving.inference.engine import Engine

    run(tagger, tmp_path / "out", [EXPORT | {"fp16": True}, {"kind": "quantize", "variant": "static"}])
    bundle = Bundle.load(tmp_path / "out")
    engine = Engine(bundle)
    assert engine.variant.precision == "int8"
    half = Engine(bundle, precision="fp16")
    text = "in oslo , acme hired anna ."
    one, other = engine.predict([text])[0], half.predict([text])[0]
    assert [(item["word"], item["start"]) for item in one] == [(item["word"], item["start"]) for item in other]
    assert np.allclose([item["score"] for item in one], [item["score"] for item in other], atol=0.1)


def test_a_precision_that_is_not_there_is_named(tagger: Path, tmp_path: Path) -> None:
    run(tagger, tmp_path / "out", [EXPORT])
    with pytest.raises(BundleError, match="no ONNX graph of precision 'fp16'"):
        Bundle.load(tmp_path / "out").onnx_variant("fp16", "cuda")
    assert Bundle.load(tmp_path / "out").onnx_variant("auto", "cuda").precision == "fp32"


def test_opsets_that_the_exporter_or_the_runtime_lacks_are_refused_before_the_bundle_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"export\.opset=99, which exporter 'torchscript' does not write"):
        run(tmp_path / "absent", tmp_path / "out", [EXPORT | {"opset": 99}])
    monkeypatch.setattr(EXPORTERS["torchscript"], "opsets", range(1, 200))
    with pytest.raises(ConfigError, match=r"export\.opset=99, which onnxruntime .* does not have"):
        run(tmp_path / "absent", tmp_path / "out", [EXPORT | {"opset": 99}])


@pytest.mark.parametrize("family", SHAPES)
def test_a_bfloat16_graph_errs_as_bfloat16_does(family: str, tmp_path: Path) -> None:
    """Its weights are float32's rounded to eight bits, and what it computes (emulated) is near, but not equal."""
    source, target = tmp_path / "model.onnx", tmp_path / "model.bf16.onnx"
    with quiet():
        EXPORTERS["torchscript"]().write(tiny_model(family, TAGGER), source, fuse=True)
        write_half(source, target, "bf16")
    check_graph(target, "bf16")
    exact = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    for one in onnx.load(target).graph.initializer:
        if one.data_type == onnx.TensorProto.BFLOAT16 and one.name in exact:
            rounded = onnx.numpy_helper.to_array(one).astype(np.float32)
            assert np.all(np.abs(rounded - exact[one.name]) <= 2**-8 * np.abs(exact[one.name]))
    forwards = [graph_forward(open_session(source, 1)), graph_forward(open_session(target, 1, "bf16"))]
    error = error_of(*forwards, probes(300, 40, seed=2))
    assert 1e-4 < error < 0.1


def test_bfloat16_on_a_cpu_is_refused_by_name(tagger: Path, tmp_path: Path) -> None:
    from serving.inference.engine import Engine

    run(tagger, tmp_path / "out", [EXPORT | {"bf16": True}])
    bundle = Bundle.load(tmp_path / "out")
    assert bundle.onnx_variant("auto", "cuda").precision == "bf16"
    assert Engine(bundle).variant.precision == "fp32"
    with pytest.raises(ConfigError, match="no bfloat16 kernels for the CPU"):
        Engine(bundle, precision="bf16")


def test_bfloat16_needs_an_opset_with_its_nodes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"export\.opset=16 and bf16=true"):
        run(tmp_path / "absent", tmp_path / "out", [EXPORT | {"bf16": True, "opset": 16}])
