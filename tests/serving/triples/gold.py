"""Agents that know their texts: logits of a tagger and of an agent of relations are the gold answers, in tokenizers of different families."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.bundle import Bundle, Lineage, Manifest, OnnxVariant, write_bundle
from agent.encoding import Encoder
from agent.segmentation import Segmentation
from agent.tasks import BaseTask, RelationExtraction, TokenClassification
from agent.tasks.relations.entity_windows import try_marked
from agent.tasks.relations.marked_text import mark
from tests.agent.families import of_characters
from tests.serving.api.test_what_callers_get import table_model
from tests.serving.tiny import INPUTS

CUT = Segmentation(pieces="subwords")
FAMILIES = {"tagger": "byte_level", "relater": "wordpiece"}
TAGGER = TokenClassification(labels=("LOC", "ORG", "PER"))
RELATER = RelationExtraction(
    labels=("Employment(e1,e2)", "Employment(e2,e1)", "Location(e1,e2)", "Location(e2,e1)", "Siblings", "none"),
    no_relation="none",
)
Place = tuple[int, int]


def place(text: str, word: str) -> Place:
    """Where a word stands."""
    return text.index(word), text.index(word) + len(word)


class Told:
    """A text with its entities and triples, by their words."""

    def __init__(self, text: str, entities: dict[str, str], *triples: tuple[str, str, str]) -> None:
        self.text = text
        self.entities = {place(text, word): label for word, label in entities.items()}
        self.triples = {(place(text, head), name, place(text, tail)) for head, name, tail in triples}

    @property
    def record(self) -> dict[str, Any]:
        """For a tagger."""
        spans = [{"start": start, "end": end, "label": label} for (start, end), label in self.entities.items()]
        return {"text": self.text, "spans": spans}

    def records(self) -> list[dict[str, str]]:
        """For an agent of relations: every pair of entities, the first of the text as `e1`."""
        found = []
        for first, second in combinations(sorted(self.entities), 2):
            said = {
                (name, (first, second) == (head, tail))
                for head, name, tail in self.triples
                if {head, tail} == {first, second}
            }
            label = "none"
            for name, forward in said:
                label = name if name == "Siblings" else f"{name}({'e1,e2' if forward else 'e2,e1'})"
            found.append({"text": mark(self.text, first, second), "label": label})
        return found


FAR = "x " * 200
TOLD = [
    Told("Anna Berg works for Acme in Oslo.", {"Anna Berg": "PER", "Acme": "ORG", "Oslo": "LOC"},
         ("Anna Berg", "Employment", "Acme"), ("Acme", "Location", "Oslo")),
    Told("Acme™ hired 👍🏽Bo, whose sister Cora is in Zürich", {"Acme": "ORG", "Bo": "PER", "Cora": "PER", "Zürich": "LOC"},
         ("Bo", "Employment", "Acme"), ("Bo", "Siblings", "Cora")),
    Told("Nobody met anybody.", {}),
    Told("Only Dan came.", {"Dan": "PER"}),
    Told(f"Eve of Initech. {FAR} In Lima, Fay.", {"Eve": "PER", "Initech": "ORG", "Lima": "LOC", "Fay": "PER"}, ("Eve", "Employment", "Initech")),
]  # fmt: skip
NUM_PAIRS, NUM_TOO_FAR = 3 + 6 + 2, 4  # no window holds Eve or Initech beside Lima or Fay
MAX_TOKENS = 512


def tagger_bundle(path: Path) -> Path:
    """Finds the entities."""
    encoder = Encoder(of_characters(FAMILIES["tagger"]), max_tokens=MAX_TOKENS, stride=8, segmentation=CUT)
    examples = [TAGGER.read_record(told.record, "") for told in TOLD]
    documents = TAGGER.encode(encoder, examples)
    assert all(len(document.windows) == 1 for document in documents)
    keys = [int((document.windows[0].input_ids ** 2).sum()) for document in documents]
    tables = np.zeros((len(examples), MAX_TOKENS, len(TAGGER.outputs)), np.float32)
    for table, example, document in zip(tables, examples, documents, strict=True):
        (targets,) = TAGGER.targets(example, document)
        table[: len(targets)] = 9 * np.eye(len(TAGGER.outputs), dtype=np.float32)[np.maximum(targets, 0)]
    return _publish(path, TAGGER, encoder, lambda file: table_model(file, keys, tables))


def relater_bundle(path: Path, task: RelationExtraction = RELATER) -> Path:
    """Knows the relation of every pair; it takes 128 tokens, each a character."""
    encoder = Encoder(of_characters(FAMILIES["relater"]), max_tokens=128, stride=0, segmentation=CUT)
    records = [record for told in TOLD for record in told.records()]
    documents = try_marked(encoder, [record["text"] for record in records])
    known = [(document, record["label"]) for document, record in zip(documents, records, strict=True) if document]
    assert len(known) == NUM_PAIRS
    keys = [_key(document.windows[0].input_ids) for document, _ in known]
    assert len(set(keys)) == len(keys)
    table = 9 * np.eye(len(task.labels), dtype=np.float32)[[task.labels.index(label) for _, label in known]]
    return _publish(path, task, encoder, lambda file: _pair_model(file, keys, table))


def _key(ids: np.ndarray) -> int:
    return int((ids**2 * np.arange(1, len(ids) + 1)).sum())


def _publish(path: Path, task: BaseTask[Any], encoder: Encoder, write_graph: Any) -> Path:
    with write_bundle(path) as draft:
        encoder.tokenizer.save(str(draft.path / "tokenizer.json"))
        write_graph(draft.path / "model.onnx")
        draft.publish(
            Manifest(
                task=task, max_tokens=encoder.max_tokens, stride=encoder.stride, segmentation=CUT,
                lineage=Lineage(base_model="table", data_digest="none"),
                onnx=(OnnxVariant(file="model.onnx", precision="fp32", inputs=INPUTS, exporter="by hand"),),
            )
        )  # fmt: skip
    return Bundle.load(path).path


def _pair_model(file: Path, keys: list[int], table: np.ndarray) -> None:
    """A graph that knows its texts by the sum of the squares of their ids, each times its place, and answers with a row of a table: float32 [texts, outputs]."""
    constants = {
        "keys": np.array([keys], np.int64), "table": table, "one": np.array([1], np.int64), "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64), "places": np.arange(1, MAX_TOKENS + 1, dtype=np.int64)[None],
    }  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"]),
        helper.make_node("Mul", ["real", "real"], ["squares"]),
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Slice", ["size", "one", "two"], ["length"]),
        helper.make_node("Slice", ["places", "zero", "length", "one"], ["seen"]),
        helper.make_node("Mul", ["squares", "seen"], ["placed"]),
        helper.make_node("ReduceSum", ["placed", "one"], ["sum"], keepdims=1),
        helper.make_node("Equal", ["sum", "keys"], ["same"]),
        helper.make_node("Cast", ["same"], ["choice"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["choice", "table"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "pairs",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", table.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
