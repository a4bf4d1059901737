"""Throughput of ways to batch waiting texts: one by one, cut at several budgets of padded tokens, or packed without padding.

    python benchmarks/batch_cuts.py [bundle=DIR] [data.path=DIR] [rounds=5]

Measures texts per second of CPU time of a session with one thread, so that other processes matter little, for
windows of 32 and of 256 random texts: one by one; sorted and cut at several budgets of padded tokens; packed into rows without
padding (block-diagonal mask, positions that start again), which takes a graph of its own. Writes
benchmarks/results/batch_cuts.json.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from pydantic import Field  # noqa: E402

from agent.batching import cut_by_length, pad  # noqa: E402
from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.encoding import Window  # noqa: E402

RESULT = ROOT / "benchmarks/results/batch_cuts.json"
_BUDGETS, _ROWS, _WINDOWS = (16, 32, 64, 128, 256, 512), (64, 128), (32, 256)
_TEXTS = 512  # measured for each figure
Feeds = list[dict[str, Any]]


class CutsConfig(Config):
    """What is measured."""

    bundle: str = Field(
        "runs/demo/agent-small", description="compressed agent; packing wants an int8 graph of BERT's kind"
    )
    data: DataConfig = Field(DataConfig(), description="whose test split is cut")
    rounds: int = Field(5, ge=1, description="measurements of each figure; the median counts")


def main(config: CutsConfig) -> None:
    """Measures all ways in turns and writes the result."""
    bundle = Bundle.load(config.bundle)
    variant = bundle.onnx_variant("auto")
    task = bundle.task
    texts = [task.text_of(example) for example in load_splits(config.data, task).test]
    windows = [window for document in bundle.encoder.encode_texts(texts) for window in document.windows]
    plain = _session(bundle.path / variant.file)
    ways = _cut_ways(bundle, variant.inputs, plain) | _packed_ways(bundle.path / variant.file)
    rates: dict[str, dict[str, list[float]]] = {}
    for round_ in range(config.rounds):
        for size in _WINDOWS:
            drawn = random.Random(round_).choices(windows, k=_TEXTS)
            for name, (session, feeds_of) in ways.items():
                parts = [drawn[start : start + size] for start in range(0, _TEXTS, size)]
                feeds = [feeds for part in parts for feeds in feeds_of(part)]
                rates.setdefault(f"windows of {size}", {}).setdefault(name, []).append(_rate(session, feeds))
        print(f"round {round_ + 1} of {config.rounds}", flush=True)
    _write(config, rates)


def _cut_ways(bundle: Bundle, inputs: Sequence[str], session: Any) -> dict[str, tuple[Any, Callable[..., Feeds]]]:
    def cut(budget: int) -> Callable[[Sequence[Window]], Feeds]:
        def feeds(windows: Sequence[Window]) -> Feeds:
            lengths = [len(window.input_ids) for window in windows]
            batches = cut_by_length(lengths, max_tokens=budget)
            padded = [pad([windows[place] for place in batch], bundle.encoder.pad_id) for batch in batches]
            return [{name: getattr(batch, name) for name in inputs} for batch in padded]

        return feeds

    return {"one by one": (session, cut(1))} | {f"cut at {budget}": (session, cut(budget)) for budget in _BUDGETS}


def _packed_ways(file: Path) -> dict[str, tuple[Any, Callable[..., Feeds]]]:
    graph = packable(file)
    if graph is None:
        print("packing is left out: the graph has no QEmbedLayerNormalization to take positions", flush=True)
        return {}
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "packed.onnx").write_bytes(graph)
        session = _session(Path(directory) / "packed.onnx")
    return {f"packed rows of {width}": (session, lambda part, width=width: packed(part, width)) for width in _ROWS}


def packable(file: Path) -> bytes | None:
    """The graph with further inputs for positions and for an attention mask of each row; its tables become float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(file))
    graph = model.graph
    embed = next((node for node in graph.node if node.op_type == "QEmbedLayerNormalization"), None)
    if embed is None:
        return None
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    names = ("word", "position", "type", "gamma", "beta")
    for place, name in enumerate(
        names
    ):  # inputs 2 to 6 are quantised; 8 to 12 their scales, 13 to 17 their zero points
        table, scale, zero = (stored[embed.input[first + place]].astype(np.float32) for first in (2, 8, 13))
        graph.initializer.append(numpy_helper.from_array((table - zero) * scale, name))
    nodes = [
        helper.make_node("Gather", ["word", embed.input[0]], ["of_word"]),
        helper.make_node("Gather", ["position", "position_ids"], ["of_position"]),
        helper.make_node("Gather", ["type", embed.input[1]], ["of_type"]),
        helper.make_node("Sum", ["of_word", "of_position", "of_type"], ["of_all"]),
        helper.make_node("LayerNormalization", ["of_all", "gamma", "beta"], [embed.output[0]], axis=-1, epsilon=1e-12),
    ]
    first = list(graph.node).index(embed)
    graph.node.remove(embed)
    for place, node in enumerate(nodes):
        graph.node.insert(first + place, node)
    for node in graph.node:
        if node.op_type == "QAttention":
            node.input[5] = "own_mask"
    shapes = {"position_ids": (TensorProto.INT64, 2), "own_mask": (TensorProto.INT32, 3)}
    for name, (kind, axes) in shapes.items():
        graph.input.append(helper.make_tensor_value_info(name, kind, ["rows", "tokens", "tokens"][:axes]))
    return model.SerializeToString()


def packed(windows: Sequence[Window], width: int) -> Feeds:
    """Rows filled by first fit, longest first; each window attends only to itself."""
    rows: list[list[Window]] = []
    for window in sorted(windows, key=lambda item: -len(item.input_ids)):
        room = (row for row in rows if sum(len(item.input_ids) for item in row) + len(window.input_ids) <= width)
        if (row := next(room, None)) is not None:
            row.append(window)
        else:
            rows.append([window])
    return [_row(row) for row in rows]


def _row(windows: Sequence[Window]) -> dict[str, Any]:
    lengths = [len(window.input_ids) for window in windows]
    ids = np.concatenate([window.input_ids for window in windows])[None]
    mask, first = np.zeros((1, ids.size, ids.size), np.int32), 0
    for length in lengths:
        mask[0, first : first + length, first : first + length] = 1
        first += length
    return {
        "input_ids": ids,
        "token_type_ids": np.concatenate([window.type_ids for window in windows])[None],
        "attention_mask": np.ones_like(ids),
        "position_ids": np.concatenate([np.arange(length) for length in lengths])[None],
        "own_mask": mask,
    }


def _rate(session: Any, feeds: Feeds) -> float:
    known = {node.name for node in session.get_inputs()}
    feeds = [{name: array for name, array in feed.items() if name in known} for feed in feeds]
    started = time.process_time()
    for feed in feeds:
        session.run(["logits"], feed)
    return _TEXTS / (time.process_time() - started)


def _session(file: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _write(config: CutsConfig, rates: dict[str, dict[str, list[float]]]) -> None:
    figures = {
        size: {
            name: {
                "texts_per_cpu_s": round(statistics.median(found)),
                "from": round(min(found)),
                "to": round(max(found)),
            }
            for name, found in by_way.items()
        }
        for size, by_way in rates.items()
    }
    for size, by_way in figures.items():
        print(f"{size}:", *(f"  {name:20} {row['texts_per_cpu_s']:>6}" for name, row in by_way.items()), sep="\n")
    versions = installed_versions(("onnxruntime-gpu", "onnxruntime", "numpy"))
    result = {"versions": versions, "rounds": config.rounds, "data": Path(config.data.path).name, "figures": figures}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(cli.run(CutsConfig, main, usage=__doc__))
