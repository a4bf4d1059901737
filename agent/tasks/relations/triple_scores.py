"""Scores triples end to end: the characters of both entities, the relation and its direction have to be right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from agent.tasks.base import Report
from agent.tasks.relations.entity_pairs import asks_both_ways
from agent.tasks.relations.marked_text import read_markers
from agent.tasks.relations.relation_extraction import RelationExtraction
from agent.tasks.relations.relation_scores import directed, relation_of
from agent.tasks.tagged_text import trim
from agent.tasks.text_classification import LabelledText

MODE = "triples, exact characters of both entities, relation and direction"


class Triple(NamedTuple):
    """A relation between two parts of a text, in characters."""

    head: tuple[int, int]
    relation: str
    tail: tuple[int, int]


class GoldText(NamedTuple):
    """A text without markers, its triples, and the entities that its records mark."""

    text: str
    triples: frozenset[Triple]
    entities: frozenset[tuple[int, int]]


def gold_texts(task: RelationExtraction, examples: Sequence[LabelledText]) -> list[GoldText]:
    """The texts of labelled records, in their order, each once; its triples are those of all its records.

    A relation whose label says no direction, while others of the task do, goes out from the entity that is first in the text.
    """
    triples: dict[str, set[Triple]] = defaultdict(set)
    entities: dict[str, set[tuple[int, int]]] = defaultdict(set)
    both_ways = asks_both_ways(task.labels)
    for example in examples:
        marked = read_markers(example.text)
        spans = {number: trim(marked.text, start, end) for number, start, end in marked.entities}
        entities[marked.text] |= set(spans.values())
        if example.label == task.no_relation:
            triples[marked.text] |= set()
            continue
        head, tail = spans["1"], spans["2"]
        if example.label.endswith("(e2,e1)") or (not both_ways and not directed(example.label) and tail < head):
            head, tail = tail, head
        triples[marked.text].add(Triple(head, relation_of(example.label), tail))
    return [GoldText(text, frozenset(triples[text]), frozenset(entities[text])) for text in entities]


def triples_of(answer: Sequence[Mapping[str, Any]]) -> frozenset[Triple]:
    """The triples of an answer."""
    return frozenset(Triple(_place(item["head"]), item["relation"], _place(item["tail"])) for item in answer)


def score_triples(gold: Sequence[GoldText], answers: Sequence[Set[Triple]]) -> Report:
    """Micro F1, precision and recall over all triples, and F1 of each relation; the primary metric is micro F1.

    Args:
        gold: Texts with their triples.
        answers: The triples found in each.
    """
    wanted, said, right = (Counter[str]() for _ in range(3))
    for one, found in zip(gold, answers, strict=True):
        for counts, triples in ((wanted, one.triples), (said, found), (right, one.triples & found)):
            counts.update(triple.relation for triple in triples)
    totals = right.total(), said.total(), wanted.total()
    rows = {name: _rates(right[name], said[name], wanted[name]) for name in sorted({*wanted, *said})}
    every = _rates(*totals)
    metrics = dict(zip(("f1", "precision", "recall"), every, strict=True))
    width = max(12, *map(len, rows)) if rows else 12
    lines = [f"{'':>{width}}  f1-score precision    recall   support", ""]
    for name, rates in {**rows, "all": every}.items():
        number = totals[2] if name == "all" else wanted[name]
        lines.append(f"{name:>{width}}" + "".join(f"{rate:>10.4f}" for rate in rates) + f"{number:>10}")
    return Report(
        metrics=metrics | {f"f1.{name}": rates[0] for name, rates in rows.items()},
        primary="f1",
        support=totals[2],
        text="\n".join(lines) + f"\n{MODE}\n",
        mode=MODE,
    )


def _place(mention: Mapping[str, Any]) -> tuple[int, int]:
    return mention["start"], mention["end"]


def _rates(right: int, said: int, wanted: int) -> tuple[float, float, float]:
    """F1, precision and recall."""
    if not right:
        return 0.0, 0.0, 0.0
    return 2 * right / (said + wanted), right / said, right / wanted
