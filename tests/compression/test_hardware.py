"""Which graph is for which hardware; half precision for GPUs; opsets that something lacks are refused before work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ConfigError
from compression.exporters import EXPORTERS
from tests.compression.test_pipeline import check, run

EXPORT = {"kind": "export", "exporter": "torchscript"}
AVAILABLE = [kind for kind, exporter in EXPORTERS.items() if not exporter.missing()]


@pytest.mark.parametrize("exporter", AVAILABLE)
def test_a_bundle_holds_a_graph_for_each_hardware(tagger: Path, tmp_path: Path, exporter: str) -> None:
    steps = [{"kind": "export", "exporter": exporter, "fp16": True}, "quantize"]
    report = run(tagger, tmp_path / "out", steps)
    bundle = check(tmp_path / "out", report, tagger)
    assert {one.precision: one.hardware for one in bundle.manifest.onnx} == {
        "fp16": ("cuda", "tensorrt"),
        "fp32": ("cpu", "cuda", "tensorrt"),
        "int8": ("cpu",),
    }
    assert bundle.onnx_variant().precision == "int8"
    assert bundle.onnx_variant("auto", "tensorrt").precision == "fp16"
    assert bundle.onnx_variant("auto", "cuda").precision == "fp16"
    assert bundle.onnx_variant("fp32", "cuda").precision == "fp32"
    weights = onnx.load(tmp_path / "out/model.fp16.onnx").graph.initializer
    wide = [one.name for one in weights if len(one.dims) == 2 and one.data_type == onnx.TensorProto.FLOAT]
    assert not wide
    sizes = {one.precision: (bundle.path / one.file).stat().st_size for one in bundle.manifest.onnx}
    assert sizes["fp16"] < 0.8 * sizes["fp32"]


def test_an_engine_on_the_cpu_takes_the_graph_for_the_cpu(tagger: Path, tmp_path: Path) -> None:
    from serving.engine import Engine

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


@pytest.mark.parametrize("exporter", AVAILABLE)
def test_another_opset_is_written(tagger: Path, tmp_path: Path, exporter: str) -> None:
    run(tagger, tmp_path / "out", [{"kind": "export", "exporter": exporter, "opset": 20}])
    opsets = {one.domain: one.version for one in onnx.load(tmp_path / "out/model.onnx").opset_import}
    assert opsets.get("", opsets.get("ai.onnx")) == 20


def test_opsets_that_the_exporter_or_the_runtime_lacks_are_refused_before_the_bundle_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"export\.opset=99, which exporter 'torchscript' does not write"):
        run(tmp_path / "absent", tmp_path / "out", [EXPORT | {"opset": 99}])
    monkeypatch.setattr(EXPORTERS["torchscript"], "opsets", range(1, 200))
    with pytest.raises(ConfigError, match=r"export\.opset=99, which onnxruntime .* does not have"):
        run(tmp_path / "absent", tmp_path / "out", [EXPORT | {"opset": 99}])
