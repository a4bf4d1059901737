"""Size, F1 and speed of an int8 graph whose word embeddings have 8 bits a weight, and of one where they have 4.

    python benchmarks/compression_comparison/embedding_bits.py [bundle=DIR] [data.path=DIR] [rounds=8] [result=FILE]

Quantises the bundle's float32 graph twice (static int8 by percentile, as step quantize does by default) with `embedding_bits` 8 and 4,
answers the test split with both, and compares their CPU seconds in turns (one thread, batches of 16, and sentences of 16 tokens), which
other processes change less than wall time. F1 of the float32 graph is the bundle's own. Writes `result`.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.batching import Batch, pad  # noqa: E402
from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, Splits, load_splits  # noqa: E402
from agent.evaluation import Forward, evaluate  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/embedding_bits.json"
_ROWS = 16
_BITS: tuple[Literal[4, 8], ...] = (8, 4)
_CALIBRATION = 256


class EmbeddingBitsConfig(Config):
    """What is measured."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent with a float32 graph")
    data: DataConfig = Field(DataConfig(path="runs/demo/data"), description="whose test split is answered")
    rounds: int = Field(8, ge=3, description="times that the batches are computed; the median counts")
    result: Path = Field(RESULT, description="the JSON to write")


def main(config: EmbeddingBitsConfig) -> None:
    """Measures and writes the result."""
    from compression.graphs.onnx_graph import graph_forward, open_session

    bundle = Bundle.load(config.bundle)
    splits = load_splits(config.data, bundle.task)
    source = bundle.path / bundle.onnx_variant("fp32").file
    with tempfile.TemporaryDirectory() as scratch:
        paths = {bits: _quantized(bundle, splits, source, Path(scratch) / f"{bits}.onnx", bits) for bits in _BITS}
        sizes = {bits: path.stat().st_size for bits, path in paths.items()}
        forwards = {bits: graph_forward(open_session(path, 1)) for bits, path in paths.items()}
    exact = next(one.report.value for one in bundle.manifest.evaluations if one.model == source.name)
    speeds = {name: _ratios(forwards, batches, config.rounds) for name, batches in _batches(bundle, splits).items()}
    rows = {}
    for bits, forward in forwards.items():
        f1 = evaluate(bundle.task, bundle.encoder, splits.test, forward).value
        rows[f"{bits} bits"] = {
            "bytes": sizes[bits],
            "of the float32 graph": round(sizes[bits] / source.stat().st_size, 4),
            "test F1": round(f1, 4),
            "kept": round(f1 / exact, 4),
        }
    about = {
        "machine": machine(), "versions": installed_versions(("onnxruntime-gpu", "onnxruntime")), "bundle": bundle.digest,
        "rounds": config.rounds, "rows": _ROWS, "float32": {"bytes": source.stat().st_size, "test F1": round(exact, 4)},
    }  # fmt: skip
    text = json.dumps({**about, "graphs": rows, "CPU seconds of 8 bits over those of 4, quartiles": speeds}, indent=1)
    config.result.write_text(text + "\n", encoding="utf-8")
    print(text)


def _quantized(bundle: Bundle, splits: Splits, source: Path, target: Path, bits: Literal[4, 8]) -> Path:
    from compression.exporters import EXPORTERS
    from compression.quantization.activation_ranges import CalibrationRule
    from compression.quantization.quantizers import write_dynamic, write_static
    from compression.steps import QuantizeStep

    chosen = random.Random(0).sample(list(splits.train), min(_CALIBRATION, len(splits.train)))
    windows = [window for document in bundle.task.encode(bundle.encoder, chosen) for window in document.windows]
    batches = [pad([window], bundle.encoder.pad_id) for window in windows if len(window.input_ids) <= 64]
    options = QuantizeStep(embedding_bits=bits).quantization(source)
    write_dynamic(EXPORTERS["torchscript"](), source, target, options)
    write_static(target, source, target, batches, CalibrationRule("percentile"))
    return target


def _batches(bundle: Bundle, splits: Splits) -> dict[str, list[Batch]]:
    documents = bundle.task.encode(bundle.encoder, splits.test)
    windows = sorted((one for document in documents for one in document.windows), key=lambda one: len(one.input_ids))
    pad_id = bundle.encoder.pad_id
    short = [pad([window], pad_id) for window in windows if len(window.input_ids) == 16][:32]
    return {
        f"batches of {_ROWS}": [pad(windows[at : at + _ROWS], pad_id) for at in range(0, len(windows), _ROWS * 16)],
        "a sentence of 16 tokens": short,
    }


def _ratios(forwards: dict[Literal[4, 8], Forward], batches: list[Batch], rounds: int) -> list[float]:
    seconds: dict[Any, list[float]] = {bits: [] for bits in forwards}
    for _ in range(rounds):
        for bits, forward in forwards.items():
            begun = time.process_time()
            for batch in batches:
                forward(batch)
            seconds[bits].append(time.process_time() - begun)
    ratios = [eight / four for eight, four in zip(seconds[8], seconds[4], strict=True)]
    return [round(value, 3) for value in statistics.quantiles(ratios, n=4)]


if __name__ == "__main__":
    sys.exit(cli.run(EmbeddingBitsConfig, main, usage=__doc__))
