#!/usr/bin/env bash
# onnxruntime 1.31.1, quantize_dynamic, on a graph whose embedding table is also the matrix of its last layer.
#
# One would expect: an int8 graph that opens, or an error while it is made. Encoders with a masked-language head and most decoders tie their
#   embedding table to their output layer, and exporters write that as one initializer, read by a Gather and by a Gemm with transB=1.
# What happens: quantize_dynamic returns without an error, and the file that it writes is refused by InferenceSession: the table is quantized once, for
#   the Gather, and the MatMulInteger that replaces the Gemm reads the same array without the transposition.
# Why it matters here: a compression that checks scores only after publishing would publish a file that nobody can open. bert-agent opens every
#   graph before it is published.
# Seen on 2026-11-29 with onnx 1.23.2, Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 sympy 2>/dev/null
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

table = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
        helper.make_node("Gemm", ["rows", "table"], ["logits"], name="head", transB=1),
    ],
    "tied",
    [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 32])],
    [numpy_helper.from_array(table, "table")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "tied.onnx")
cpu = {"providers": ["CPUExecutionProvider"]}
onnxruntime.InferenceSession("tied.onnx", **cpu)
print("onnxruntime", onnxruntime.__version__, "opens the float32 graph")
for name, prepare in (("as exported", False), ("after quant_pre_process", True)):
    source = "tied.onnx"
    if prepare:
        quant_pre_process("tied.onnx", "prepared.onnx", skip_symbolic_shape=True)
        source = "prepared.onnx"
    quantize_dynamic(source, "int8.onnx", weight_type=QuantType.QInt8)
    try:
        onnxruntime.InferenceSession("int8.onnx", **cpu)
    except Exception as error:
        print(f"{name}: quantize_dynamic returned, InferenceSession refuses its file: {str(error)[:160]}")
        assert "MatMulInteger" in str(error)
    else:
        raise SystemExit(f"{name}: the int8 graph opens; this finding no longer holds")
PY
