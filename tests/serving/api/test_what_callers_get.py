"""What the report says is what a caller gets: over HTTP, for every family of tokenizers and every script."""

from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.bundle import Bundle, Lineage, Manifest, OnnxVariant, write_bundle
from agent.encoding import Encoder
from agent.evaluation import evaluate
from agent.segmentation import Segmentation
from agent.tasks import TokenClassification
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.agent.families import CHARACTER_FAMILIES, SCRIPTS, of_characters
from tests.agent.test_segmentation import TASK, marked
from tests.serving.conftest import listening
from tests.serving.tiny import INPUTS

EXAMPLES = [TASK.read_record(marked(text), script) for script, (text, _) in SCRIPTS.items()]
MAX_TOKENS = 512


def table_model(file: Path, keys: list[int], tables: np.ndarray) -> None:
    """A graph that knows its texts by the sum of the squares of their ids and answers with the logits of a table: float32 [texts, tokens, outputs]."""
    texts, tokens, outputs = tables.shape
    constants = {
        "keys": np.array([keys], np.int64),
        "flat": tables.reshape(texts, -1),
        "shape": np.array([0, tokens, outputs], np.int64),
        "one": np.array([1], np.int64),
        "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"]),
        helper.make_node("Mul", ["real", "real"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "one"], ["sum"], keepdims=1),
        helper.make_node("Equal", ["sum", "keys"], ["same"]),
        helper.make_node("Cast", ["same"], ["choice"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["choice", "flat"], ["chosen"]),
        helper.make_node("Reshape", ["chosen", "shape"], ["whole"]),
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Slice", ["size", "one", "two"], ["length"]),
        helper.make_node("Slice", ["whole", "zero", "length", "one"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "tokens", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)


def bundle_of(path: Path, family: str, noise: float) -> Bundle:
    """An agent that knows every text: its logits are the targets, and as much noise."""
    tokenizer, cut = of_characters(family), Segmentation(pieces="subwords")
    encoder = Encoder(tokenizer, max_tokens=MAX_TOKENS, stride=8, segmentation=cut)
    documents = TASK.encode(encoder, EXAMPLES)
    keys = [int((document.windows[0].input_ids ** 2).sum()) for document in documents]
    assert len(set(keys)) == len(keys)
    assert all(len(document.windows) == 1 for document in documents)
    tables = np.zeros((len(EXAMPLES), MAX_TOKENS, len(TASK.outputs)), np.float32)
    for table, example, document in zip(tables, EXAMPLES, documents, strict=True):
        (targets,) = TASK.targets(example, document)
        table[: len(targets)] = np.eye(len(TASK.outputs), dtype=np.float32)[np.maximum(targets, 0)]
    tables += np.random.default_rng(0).normal(size=tables.shape).astype(np.float32) * noise
    with write_bundle(path) as draft:
        tokenizer.save(str(draft.path / "tokenizer.json"))
        table_model(draft.path / "model.onnx", keys, tables)
        draft.publish(
            Manifest(
                task=TASK, max_tokens=MAX_TOKENS, stride=8, segmentation=cut, lineage=Lineage(base_model="table", data_digest="none"),
                onnx=(OnnxVariant(file="model.onnx", precision="fp32", inputs=INPUTS, exporter="by hand"),),
            )
        )  # fmt: skip
    return Bundle.load(path)


def f1_of(answers: list) -> float:
    """Exact characters and label of what came back."""
    gold = [{(span.start, span.end, span.label) for span in example.spans} for example in EXAMPLES]
    found = [{(item["start"], item["end"], item["entity_group"]) for item in answer} for answer in answers]
    hits = sum(len(one & other) for one, other in zip(gold, found, strict=True))
    return 2 * hits / (sum(map(len, gold)) + sum(map(len, found)))


@pytest.mark.parametrize("family", CHARACTER_FAMILIES)
@pytest.mark.parametrize("noise", [0.0, 0.35])
def test_the_report_says_what_a_caller_gets(tmp_path, family, noise):
    bundle = bundle_of(tmp_path / "bundle", family, noise)
    engine = Engine(bundle)
    report = evaluate(bundle.task, bundle.encoder, EXAMPLES, engine.forward)
    texts = [example.text for example in EXAMPLES]
    with listening(Predictor(engine)) as url:
        together = httpx.post(url, json={"inputs": texts}).raise_for_status().json()
        alone = [httpx.post(url, json={"inputs": text}).raise_for_status().json() for text in texts]
    for answers in (together, alone):
        assert f1_of(answers) == pytest.approx(report.value, abs=1e-9)
        for text, answer in zip(texts, answers, strict=True):
            assert [item["word"] for item in answer] == [text[item["start"] : item["end"]] for item in answer]
    assert report.value == 1.0 if noise == 0 else 0.3 < report.value < 0.99


def test_words_of_a_caller_are_answered_as_words(tagger_url):
    words = ["Anna", "Smith-Jones", "met", "Bruno", "in", "U.S."]
    one = httpx.post(tagger_url, json={"inputs": {"words": words}}).raise_for_status().json()
    listed = httpx.post(tagger_url, json={"inputs": [{"words": words}]}).raise_for_status().json()
    assert listed == [one]  # the same batch: dynamic int8 scores another one otherwise
    several = httpx.post(tagger_url, json={"inputs": [{"words": words}, {"words": ["Oslo"]}]}).raise_for_status().json()
    text, edges = " ".join(words), {0}
    for word in words:
        edges |= {max(edges) + len(word), max(edges) + len(word) + 1}
    for item in (*one, *several[0]):  # scores of dynamic int8 depend on the batch, places do not
        assert text[item["start"] : item["end"]] == item["word"]
        assert {item["start"], item["end"]} <= edges, "entities are of whole words"


@pytest.mark.parametrize(
    ("inputs", "field", "part"),
    [
        ({"words": []}, "inputs.words", "a list"),
        ({"words": ["a", ""]}, "inputs.words[1]", "empty"),
        ({"words": "a"}, "inputs.words", "'a'"),
        ({"word": ["a"]}, "inputs.words", "missing"),
        ([{"words": ["a"]}, {"words": ["b", ""]}], "inputs[1].words[1]", "empty"),
        ([{"words": ["a"]}, "b"], "inputs[1]", "'b'"),
        (["b", {"words": ["a"]}], "inputs[1]", "an object"),
    ],
)
def test_words_that_are_none_are_refused_by_their_place(tagger_url, inputs, field, part):
    refused = httpx.post(tagger_url, json={"inputs": inputs})
    assert refused.status_code == 422
    assert (refused.json()["field"], part in refused.json()["error"]) == (field, True), refused.text


def test_an_agent_of_another_task_takes_no_words(classifier_url):
    refused = httpx.post(classifier_url, json={"inputs": {"words": ["a"]}})
    assert refused.status_code == 422
    assert "words" not in refused.json()["error"]


def test_the_cut_is_that_of_the_bundle(tmp_path):
    """The same graph answers other pieces where the bundle says so."""
    bundle = bundle_of(tmp_path / "bundle", "wordpiece", 0.0)
    assert bundle.encoder.segmentation.pieces == "subwords"
    assert TokenClassification(labels=TASK.labels) == bundle.task
