"""Speed and F1 of int8 weights on a CPU without VNNI: as ONNX Runtime's quantiser writes them, by its two remedies, and by ours.

    python benchmarks/compression_comparison/int8_pairs.py [bundle=DIR] [data.path=DIR] [rounds=30]

Quantises the bundle's float32 graph (dynamic int8, a scale per channel): plainly; plainly, run with `session.x64quantprecision`; with
7-bit weights (`reduce_range`); with scales under which pairs of products fit into 16 bits (compression/graphs/pair_sums.py). One
thread, batches in turns. On a CPU with VNNI all four are equally fast, and nothing overflows. Writes benchmarks/results/int8_pairs.json.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from pydantic import Field  # noqa: E402

from agent.batching import Batch, pad  # noqa: E402
from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.evaluation import evaluate  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/int8_pairs.json"
_ROWS = 16
_PLAIN, _PRECISE, _SEVEN, _OURS = "plain", "x64quantprecision", "reduce_range", "pairs fit"
_ENTRIES: Mapping[str, Mapping[str, str]] = {_PRECISE: {"session.x64quantprecision": "1"}}


class PairsConfig(Config):
    """What is measured."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent with a float32 graph")
    data: DataConfig = Field(DataConfig(path="runs/demo/data"), description="whose test split is answered")
    rounds: int = Field(30, ge=3, description="times that the batches are computed; the median counts")


def main(config: PairsConfig) -> None:
    """Measures all four in turns and writes the result."""
    bundle = Bundle.load(config.bundle)
    test = load_splits(config.data, bundle.task).test
    encoded = bundle.encoder.encode_texts([bundle.task.text_of(example) for example in test])
    windows = sorted((one for document in encoded for one in document.windows), key=lambda one: len(one.input_ids))
    batches = [pad(windows[at : at + _ROWS], bundle.encoder.pad_id) for at in range(0, len(windows), _ROWS * 8)]
    with tempfile.TemporaryDirectory() as scratch:
        sessions = _sessions(bundle.path / bundle.onnx_variant("fp32").file, Path(scratch))
    exact = [_run(sessions["float32"], batch) for batch in batches]
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(config.rounds):
        for name, session in sessions.items():
            begun = time.perf_counter()
            for batch in batches:
                _run(session, batch)
            seconds[name].append(time.perf_counter() - begun)
    rows = {}
    for name, session in sessions.items():
        error = [np.abs(_run(session, batch) - one).mean() for batch, one in zip(batches, exact, strict=True)]
        rows[name] = {
            "speed beside plain, median": _ratios(seconds, name)[1],
            "quartiles": [_ratios(seconds, name)[0], _ratios(seconds, name)[2]],
            "mean difference of logits from float32": round(float(np.mean(error)), 4),
            "test score": round(
                evaluate(bundle.task, bundle.encoder, test, lambda batch, s=session: _run(s, batch)).value, 4
            ),
        }
    about = {
        "machine": machine(),
        "versions": installed_versions(("onnxruntime-gpu", "onnxruntime")),
        "bundle": bundle.digest,
    }
    text = json.dumps({**about, "rounds": config.rounds, "rows": _ROWS, "graphs": rows}, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


def _ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    pairs = zip(seconds[_PLAIN], seconds[name], strict=True)
    return [round(value, 3) for value in statistics.quantiles([plain / own for plain, own in pairs], n=4)]


def _sessions(source: Path, scratch: Path) -> dict[str, Any]:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from compression.graphs.pair_sums import fit_pair_sums

    graph = onnx.load(str(source))
    del graph.graph.value_info[:]
    paths = {"float32": source, **{name: scratch / f"{name}.onnx" for name in (_PLAIN, _SEVEN, _OURS)}}
    for name in (_PLAIN, _SEVEN, _OURS):
        quantize_dynamic(
            graph, paths[name], op_types_to_quantize=["MatMul", "Gemm", "Attention"], per_channel=True,
            reduce_range=name == _SEVEN, weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )  # fmt: skip
    fit_pair_sums(paths[_OURS], source)
    paths[_PRECISE] = paths[_PLAIN]
    found = {}
    for name, path in paths.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        for key, value in _ENTRIES.get(name, {}).items():
            options.add_session_config_entry(key, value)
        found[name] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return found


def _run(session: Any, batch: Batch) -> Any:
    return session.run(["logits"], {node.name: getattr(batch, node.name) for node in session.get_inputs()})[0]


if __name__ == "__main__":
    sys.exit(cli.run(PairsConfig, main, usage=__doc__))
