"""What compression uses of ONNX Runtime and transformers beyond their documented interfaces is as it was when that was written."""

import importlib
import inspect
from importlib.metadata import version

import pytest

ONNXRUNTIME, TRANSFORMERS = "1.31", "5.24"
USED = {
    "onnxruntime.transformers.optimizer:optimize_model": ("input", "model_type", "num_heads", "hidden_size", "opt_level"),
    "onnxruntime.transformers.float16:convert_float_to_float16": ("model", "keep_io_types", "disable_shape_infer"),
    "onnxruntime.quantization.calibrate:HistogramCollector": (
        "method", "symmetric", "num_bins", "num_quantized_bins", "percentile", "scenario",
    ),
    "onnxruntime.quantization.matmul_nbits_quantizer:MatMulNBitsQuantizer": (
        "model", "bits", "block_size", "is_symmetric", "accuracy_level", "nodes_to_exclude", "op_types_to_quantize",
    ),
    "onnxruntime.quantization:quantize_dynamic": (
        "model_input", "model_output", "op_types_to_quantize", "nodes_to_exclude", "per_channel", "weight_type", "extra_options",
    ),
}  # fmt: skip
EXPORTER = {
    "transformers.exporters.exporter_onnx:OnnxConfig": ("dynamic", "opset_version", "ort_fusions"),
    "transformers.exporters.exporter_onnx:OnnxExporter.export": ("model", "sample_inputs", "config"),
}
DEFAULT_BINS = {"entropy": 128, "percentile": 2048}


def parameters(name: str) -> list[str]:
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return list(inspect.signature(found).parameters)


def onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def test_onnxruntime_is_the_version_that_was_written_for() -> None:
    assert onnxruntime_version().startswith(f"{ONNXRUNTIME}."), (
        f"onnxruntime is {onnxruntime_version()}, compression/graphs/onnxruntime_internals.py was written for {ONNXRUNTIME}: run "
        "tests/compression, compare speeds (docs/benchmarks.md), then change the version here and the bounds in pyproject.toml"
    )


@pytest.mark.parametrize("name", sorted(USED))
def test_onnxruntime_takes_the_arguments_that_are_given(name: str) -> None:
    absent = set(USED[name]) - set(parameters(name))
    assert not absent, (
        f"{name} of onnxruntime {onnxruntime_version()} has no {', '.join(sorted(absent))}, as it had in {ONNXRUNTIME}: adapt "
        "compression/graphs/onnxruntime_internals.py"
    )


def test_histograms_have_the_default_numbers_of_bins() -> None:
    from onnxruntime.quantization import calibrate

    from compression.graphs.onnxruntime_internals import _BINS

    assert _BINS == DEFAULT_BINS
    for kind, bins in (("Entropy", DEFAULT_BINS["entropy"]), ("Percentile", DEFAULT_BINS["percentile"])):
        default = inspect.signature(getattr(calibrate, f"{kind}Calibrater")).parameters["num_bins"].default
        assert default == bins, (
            f"onnxruntime {onnxruntime_version()} uses {default} bins for {kind}, {ONNXRUNTIME} used {bins}"
        )


@pytest.mark.parametrize("name", sorted(EXPORTER))
def test_the_exporter_of_transformers_takes_the_arguments_that_are_given(name: str) -> None:
    if importlib.util.find_spec("transformers.exporters") is None:
        pytest.skip("transformers 4 has no exporters")
    absent = set(EXPORTER[name]) - set(parameters(name))
    assert not absent, (
        f"{name} of transformers {version('transformers')} has no {', '.join(sorted(absent))}, as it had in {TRANSFORMERS}: adapt "
        "compression/exporters/transformers_onnx.py"
    )
