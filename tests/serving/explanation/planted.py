"""Agents whose decisions are known by construction: logits are sums of weights of the words in the text."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.bundle import Bundle, Lineage, Manifest, OnnxVariant, write_bundle
from agent.tasks import BaseTask, TextClassification
from serving.inference.engine import Engine, EngineConfig
from tests.serving.tiny import INPUTS
from tests.tiny import make_tokenizer

_SENTENCE = (
    "the minutes of meeting were sent to office and nothing else happened that day while everyone waited for a letter "
    "from river town about new boats old stones quiet gardens"
)
FILLER = _SENTENCE.split()
TOPICS = {"storm": "weather", "ballot": "politics", "penalty": "sport", "dividend": "trade"}
TOPIC_TASK = TextClassification(labels=("other", *sorted(TOPICS.values())))

Weights = Mapping[str, Mapping[str, float]]
"""Words to what they add to the logits of outputs."""


def planted_bundle(
    path: Path, task: BaseTask, context: Weights, own: Weights | None = None, *, bias: Mapping[str, float] | None = None
) -> Path:
    """Writes a bundle.

    Args:
        path: Where.
        task: What it decides.
        context: What a word adds to the logits wherever it stands.
        own: What a word adds to its own logits, where every token has some.
        bias: Of outputs.
    """
    words = sorted({*FILLER, *context, *(own or {})})
    tokenizer = make_tokenizer([" ".join([*words, ".", ",", ";"])] * 3)
    vocabulary = tokenizer.get_vocab()
    assert set(words) <= set(vocabulary)
    tables = [_table(task, vocabulary, weights) for weights in (context, own or {})]
    shift = np.array([(bias or {}).get(name, 0.0) for name in task.outputs], np.float32)
    with write_bundle(path) as draft:
        tokenizer.save(str(draft.path / "tokenizer.json"))
        _graph(draft.path / "model.onnx", *tables, shift, per_token=task.decision.per_token)
        variant = OnnxVariant(file="model.onnx", precision="fp32", inputs=INPUTS, exporter="by hand")
        lineage = Lineage(base_model="planted", data_digest="none")
        draft.publish(Manifest(task=task, max_tokens=32, stride=8, lineage=lineage, onnx=(variant,)))
    return path


def topic_bundle(path: Path) -> Path:
    """An agent that tells a text's topic by one word."""
    return planted_bundle(path, TOPIC_TASK, {word: {label: 6.0} for word, label in TOPICS.items()}, bias={"other": 2.0})


def topic_texts(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts with the one word that decides."""
    draw, found = random.Random(seed), []
    for _ in range(number):
        words = draw.choices(FILLER, k=draw.randint(5, 16))
        decisive = draw.choice(sorted(TOPICS))
        words.insert(draw.randint(0, len(words)), decisive)
        found.append((" ".join(words) + " .", decisive))
    return found


def engine_of(path: Path) -> Engine:
    """One session of one thread."""
    return Engine(Bundle.load(path), EngineConfig(sessions=1), num_cpus=1)


def _table(task: BaseTask, vocabulary: Mapping[str, int], weights: Weights) -> np.ndarray:
    """float32 [vocabulary, outputs]."""
    table = np.zeros((len(vocabulary), len(task.outputs)), np.float32)
    for word, adds in weights.items():
        for output, weight in adds.items():
            table[vocabulary[word], task.outputs.index(output)] = weight
    return table


def _graph(file: Path, context: np.ndarray, own: np.ndarray, bias: np.ndarray, *, per_token: bool) -> None:
    constants = {
        "context": context,
        "own": own,
        "bias": bias,
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["context", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "two"], ["shown"]),
        helper.make_node("Mul", ["each", "shown"], ["known"]),
        helper.make_node("ReduceSum", ["known", "one"], ["sum"], keepdims=int(per_token)),
        helper.make_node("Add", ["sum", "bias"], ["all"]),
    ]
    if per_token:
        nodes += [
            helper.make_node("Gather", ["own", "input_ids"], ["mine"]),
            helper.make_node("Add", ["mine", "all"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["all"], ["logits"]))
    shape = ["rows", "tokens", len(bias)] if per_token else ["rows", len(bias)]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
